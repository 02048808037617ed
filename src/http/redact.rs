//! Removes secrets from request targets, for log lines.

use std::borrow::Cow;

/// The parameters of the registry API. Only their values are logged.
const LOGGED_PARAMETERS: [&str; 4] = ["n", "last", "ns", "artifactType"];

const REDACTED: &str = "REDACTED";

/// Returns `target` with the values of all other parameters replaced. The parameters of a client
/// may be signatures, tokens or passwords. Allocates only if a value is replaced.
pub fn redacted(target: &str) -> Cow<'_, str> {
    let Some(mark) = memchr::memchr(b'?', target.as_bytes()) else {
        return Cow::Borrowed(target);
    };
    let (path, query) = target.split_at(mark + 1);
    if parameters(query).all(is_logged) {
        return Cow::Borrowed(target);
    }
    let mut text = String::from(path);
    for parameter in parameters(query) {
        if is_logged(parameter) {
            text.push_str(parameter);
            continue;
        }
        // A parameter without a name may be a token. A token in Base64 may end with `=`.
        let has_value = |value: &str| !value.trim_end_matches(is_separator).trim_matches('=').is_empty();
        if let Some((name, value)) = parameter.split_once('=')
            && has_value(value)
        {
            text.push_str(name);
            text.push('=');
        }
        text.push_str(REDACTED);
        text.extend(parameter.chars().next_back().filter(|&end| is_separator(end)));
    }
    Cow::Owned(text)
}

/// Returns the parameters, each with the separator at its end.
fn parameters(query: &str) -> impl Iterator<Item = &str> {
    query.split_inclusive(is_separator)
}

fn is_separator(c: char) -> bool {
    matches!(c, '&' | ';' | '?')
}

fn is_logged(parameter: &str) -> bool {
    let parameter = parameter.trim_end_matches(is_separator);
    let name = parameter.split('=').next().unwrap_or_default();
    parameter.is_empty() || LOGGED_PARAMETERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_of_registry_parameters_remain() {
        for same in [
            "/v2/",
            "/v2/a/tags/list?",
            "/v2/a/tags/list?n=5&last=1.0",
            "/v2/a/manifests/1?ns=docker.io",
            "/v2/a/referrers/x?artifactType=a/b&&n=1",
        ] {
            assert!(
                matches!(redacted(same), Cow::Borrowed(text) if text == same),
                "{same}"
            );
        }
        for (target, wanted) in [
            ("/v2/?token=secret", "/v2/?token=REDACTED"),
            (
                "/v2/?ns=docker.io&sig=a=b&n=1",
                "/v2/?ns=docker.io&sig=REDACTED&n=1",
            ),
            (
                "/v2/?X-Amz-Signature=1&X-Amz-Credential=2",
                "/v2/?X-Amz-Signature=REDACTED&X-Amz-Credential=REDACTED",
            ),
            ("/v2/?n=1;password=x", "/v2/?n=1;password=REDACTED"),
            ("/v2/?secret", "/v2/?REDACTED"),
            ("/v2/?secret&n=1", "/v2/?REDACTED&n=1"),
            ("/v2/?dG9rZW46c2VjcmV0MTI=", "/v2/?REDACTED"),
            ("/v2/?c2VjcmV0MQ==&n=1", "/v2/?REDACTED&n=1"),
            ("/v2/?token=&n=1", "/v2/?REDACTED&n=1"),
            ("/v2/?=secret", "/v2/?=REDACTED"),
            ("/v2/?N=secret&%6e=x", "/v2/?N=REDACTED&%6e=REDACTED"),
            ("/v2/?n=1?token=x", "/v2/?n=1?token=REDACTED"),
        ] {
            assert_eq!(redacted(target), wanted, "{target}");
        }
    }
}
