//! The standard variables of OpenTelemetry for the export of traces. The variables have no flags and
//! no keys, because the same variables configure all programs of a machine.

use std::time::Duration;

use ::http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::super::model::units::parse_pull_timeout;
use super::super::model::{Sampler, TraceSettings};
use super::diagnostics::{Diagnostic, Place, Warning};
use super::environment::Environment;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The defaults of the OpenTelemetry specification. The name of the service is that of the program.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const SAMPLER_DEFAULT: &str = "parentbased_always_on";
const SERVICE_NAME_DEFAULT: &str = "oci-pull-through";

/// The path of traces below [`ENDPOINT`].
const PATH: &str = "v1/traces";

const ENDPOINT_EXPECTED: &str = "expected http://host[:port][/path], or the same with https, without a user; the port of http/protobuf is usually 4318";

/// Reads the variables. Without an endpoint, traces are off, and the other variables have no effect.
pub(in crate::config) fn traces_of_environment(
    environment: Environment<'_>,
    diagnostics: &mut Vec<Diagnostic>,
    warnings: &mut Vec<Warning>,
) -> Option<TraceSettings> {
    let variables = Variables { environment };
    if variables.is("OTEL_SDK_DISABLED", "true") || variables.is("OTEL_TRACES_EXPORTER", "none") {
        return None;
    }
    let endpoint = variables.endpoint(diagnostics)?;
    let protocol = variables.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL");
    if let Some(protocol) = protocol.or_else(|| variables.get(PROTOCOL))
        && protocol != "http/protobuf"
    {
        warnings.push(Warning {
            what: Place::Environment(PROTOCOL).with_value(&protocol),
            why: "has no effect, because the cache sends traces as http/protobuf only; the endpoint must accept this protocol"
                .into(),
        });
    }
    // Each variable is read before the first error returns, so that all errors are recorded.
    let headers = variables.headers(diagnostics);
    let timeout = variables.timeout(diagnostics);
    let resource = variables.resource(diagnostics);
    let sampler = variables.sampler(diagnostics);
    Some(TraceSettings {
        endpoint: endpoint?,
        headers: headers?,
        timeout: timeout?,
        resource: resource?,
        sampler: sampler?,
    })
}

/// The variables. Empty variables count as absent.
struct Variables<'a> {
    environment: Environment<'a>,
}

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let value = (self.environment.env)(name)?.trim().to_owned();
        (!value.is_empty()).then_some(value)
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.get(name)
            .is_some_and(|found| found.eq_ignore_ascii_case(value))
    }

    /// Returns the URL of traces. `None` without a variable, and `Some(None)` after an error.
    fn endpoint(&self, diagnostics: &mut Vec<Diagnostic>) -> Option<Option<Url>> {
        let (name, text, path) = match (self.get(TRACES_ENDPOINT), self.get(ENDPOINT)) {
            (Some(text), _) => (TRACES_ENDPOINT, text, ""),
            (None, Some(text)) => (ENDPOINT, text, PATH),
            (None, None) => return None,
        };
        let url = parse_endpoint(&text, path);
        if url.is_none() {
            diagnostics.push(Diagnostic {
                // The text may have a password.
                what: Place::Environment(name).alone(),
                why: ENDPOINT_EXPECTED.into(),
            });
        }
        Some(url)
    }

    fn headers(&self, diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let name = match self.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") {
            Some(_) => "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            None => HEADERS,
        };
        let pairs = pairs(&self.get(name).unwrap_or_default());
        let headers = pairs.and_then(|pairs| pairs.into_iter().map(header).collect());
        if headers.is_none() {
            diagnostics.push(Diagnostic {
                // The values are secrets.
                what: Place::Environment(name).alone(),
                why: "expected header fields such as authorization=Bearer%20TOKEN,x-tenant=a, separated by commas; encode other characters as %XX".into(),
            });
        }
        headers
    }

    fn timeout(&self, diagnostics: &mut Vec<Diagnostic>) -> Option<Duration> {
        let Some(text) = self.get(TIMEOUT) else {
            return Some(TIMEOUT_DEFAULT);
        };
        let timeout = parse_pull_timeout(&text);
        if timeout.is_none() {
            diagnostics.push(wrong(
                TIMEOUT,
                &text,
                "expected milliseconds, more than 0, such as 10000",
            ));
        }
        timeout
    }

    fn resource(&self, diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<(String, String)>> {
        let text = self.get(RESOURCE_ATTRIBUTES).unwrap_or_default();
        let Some(mut resource) = pairs(&text) else {
            diagnostics.push(wrong(
                RESOURCE_ATTRIBUTES,
                &text,
                "expected attributes such as deployment.environment=prod,team=a, separated by commas; encode other characters as %XX",
            ));
            return None;
        };
        let is_named = resource.iter().any(|(key, _)| key == "service.name");
        let name = self.get(SERVICE_NAME);
        if let Some(name) = name.or_else(|| (!is_named).then(|| SERVICE_NAME_DEFAULT.to_owned())) {
            resource.retain(|(key, _)| key != "service.name");
            resource.insert(0, ("service.name".to_owned(), name));
        }
        Some(resource)
    }

    fn sampler(&self, diagnostics: &mut Vec<Diagnostic>) -> Option<Sampler> {
        let name = self.get(SAMPLER).unwrap_or_else(|| SAMPLER_DEFAULT.to_owned());
        let argument = self.get(SAMPLER_ARGUMENT);
        let sampler = Sampler::parse(&name, argument.as_deref());
        if sampler.is_none() {
            diagnostics.push(match Sampler::parse(&name, None) {
                Some(_) => wrong(
                    SAMPLER_ARGUMENT,
                    &argument.unwrap_or_default(),
                    "expected a ratio from 0 to 1, such as 0.01",
                ),
                None => wrong(
                    SAMPLER,
                    &name,
                    "expected always_on, always_off or traceidratio, also with parentbased_ in front",
                ),
            });
        }
        sampler
    }
}

fn wrong(name: &'static str, value: &str, why: &str) -> Diagnostic {
    Diagnostic {
        what: Place::Environment(name).with_value(value),
        why: why.into(),
    }
}

/// Parses an endpoint, and appends `path` to its path.
fn parse_endpoint(text: &str, path: &str) -> Option<Url> {
    let mut url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    let is_http = matches!(url.scheme(), "http" | "https");
    if !is_plain || !is_http || !url.has_host() || url.query().is_some() {
        return None;
    }
    if !path.is_empty() {
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
    }
    Some(url)
}

/// Parses `key=value` pairs, separated by commas, with percent-encoded values (OpenTelemetry
/// specification, "Environment Variable Specification").
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let members = text.split(',').map(str::trim).filter(|member| !member.is_empty());
    let pairs = members.map(|member| {
        let (key, value) = member.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let key = key.trim();
        (!key.is_empty()).then(|| (key.to_owned(), value.into_owned()))
    });
    pairs.collect()
}

fn header((name, value): (String, String)) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::environment::variables;

    /// Returns the settings, the errors and the warnings of these variables.
    fn read(env: &[(&str, &str)]) -> (Option<TraceSettings>, Vec<Diagnostic>, Vec<Warning>) {
        let find = variables(env);
        let environment = Environment {
            env: &find,
            ..Environment::of_process()
        };
        let (mut diagnostics, mut warnings) = (Vec::new(), Vec::new());
        let settings = traces_of_environment(environment, &mut diagnostics, &mut warnings);
        (settings, diagnostics, warnings)
    }

    fn settings(env: &[(&str, &str)]) -> TraceSettings {
        let (settings, diagnostics, warnings) = read(env);
        assert_eq!((diagnostics, warnings), (Vec::new(), Vec::new()));
        settings.expect("an endpoint")
    }

    #[test]
    fn traces_are_off_without_an_endpoint_and_if_a_variable_disables_them() {
        for env in [
            &[][..],
            &[(ENDPOINT, " ")],
            &[(SAMPLER, "nonsense"), (TIMEOUT, "nonsense")],
            &[(ENDPOINT, "http://c:4318"), ("OTEL_SDK_DISABLED", "true")],
            &[(ENDPOINT, "http://c:4318"), ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert_eq!(read(env), (None, Vec::new(), Vec::new()), "{env:?}");
        }
    }

    #[test]
    fn endpoint_of_traces_is_used_as_written_and_the_general_endpoint_gets_a_path() {
        for (env, expected) in [
            (&[(ENDPOINT, "http://c:4318")][..], "http://c:4318/v1/traces"),
            (
                &[(ENDPOINT, "https://c.example/otlp/")],
                "https://c.example/otlp/v1/traces",
            ),
            (
                &[(ENDPOINT, "http://c:4318"), (TRACES_ENDPOINT, "http://t:1/own")],
                "http://t:1/own",
            ),
            (&[(TRACES_ENDPOINT, "http://t:1")], "http://t:1/"),
        ] {
            assert_eq!(settings(env).endpoint.as_str(), expected);
        }
    }

    #[test]
    fn defaults_are_those_of_the_specification() {
        let settings = settings(&[(ENDPOINT, "http://c:4318")]);
        assert_eq!(settings.timeout, Duration::from_secs(10));
        assert_eq!(
            settings.resource,
            [("service.name".to_owned(), "oci-pull-through".to_owned())]
        );
        assert!(settings.headers.is_empty());
        assert!(settings.sampler.samples(u128::MAX, None));
        assert!(!settings.sampler.samples(u128::MAX, Some(false)));
    }

    #[test]
    fn headers_and_attributes_are_decoded_and_debug_shows_no_header() {
        let settings = settings(&[
            (ENDPOINT, "http://c:4318"),
            (HEADERS, "authorization=Bearer%20c2VjcmV0==, x-tenant = a ,"),
            (RESOURCE_ATTRIBUTES, "service.name=other,team=a%2Cb"),
            (SERVICE_NAME, "cache"),
            (TIMEOUT, "2500"),
        ]);
        let headers: Vec<_> = settings
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(
            headers,
            [("authorization", "Bearer c2VjcmV0=="), ("x-tenant", "a")]
        );
        let resource: Vec<_> = settings
            .resource
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(resource, [("service.name", "cache"), ("team", "a,b")]);
        assert_eq!(settings.timeout, Duration::from_millis(2_500));
        let shown = format!("{settings:?}");
        assert!(!shown.contains("c2VjcmV0"), "{shown}");
    }

    #[test]
    fn each_invalid_variable_is_named_with_the_expected_form_and_without_a_secret() {
        let (settings, diagnostics, _) = read(&[
            (ENDPOINT, "http://user:hunter2@c:4318"),
            (HEADERS, "hunter2"),
            (TIMEOUT, "soon"),
            (RESOURCE_ATTRIBUTES, "a"),
            (SAMPLER, "often"),
        ]);
        assert_eq!(settings, None);
        let names: Vec<&str> = diagnostics
            .iter()
            .map(|diagnostic| diagnostic.what.split('=').next().unwrap())
            .collect();
        assert_eq!(names, [ENDPOINT, HEADERS, TIMEOUT, RESOURCE_ATTRIBUTES, SAMPLER]);
        assert!(
            diagnostics
                .iter()
                .all(|diagnostic| diagnostic.why.contains("expected"))
        );
        let shown = format!("{diagnostics:?}");
        assert!(!shown.contains("hunter2"), "{shown}");

        for bad in ["c:4318", "ftp://c", "http://", "http://c/?key=x", "http://c/#x"] {
            assert_eq!(read(&[(ENDPOINT, bad)]).1.len(), 1, "{bad}");
        }
        let ratio = read(&[
            (ENDPOINT, "http://c:4318"),
            (SAMPLER, "traceidratio"),
            (SAMPLER_ARGUMENT, "2"),
        ]);
        assert_eq!(ratio.1[0].what, "OTEL_TRACES_SAMPLER_ARG=\"2\"");
    }

    #[test]
    fn another_protocol_is_a_warning() {
        let (settings, diagnostics, warnings) = read(&[(ENDPOINT, "http://c:4317"), (PROTOCOL, "grpc")]);
        assert!(settings.is_some() && diagnostics.is_empty());
        assert_eq!(warnings[0].what, "OTEL_EXPORTER_OTLP_PROTOCOL=\"grpc\"");
    }
}
