//! The operations of the admin API: method, path and query as values, and the role that each needs.

use std::borrow::Cow;
use std::str::FromStr;

use http::Method;
use percent_encoding::percent_decode_str;

use super::access::Role;
use super::problem::Problem;
use crate::config::ImageFilter;
use crate::limits::{ADMIN_PAGE_DEFAULT, ADMIN_PAGE_MAX};
use crate::manage::{Cursor, ImageQuery, ImportRule, Sort};
use crate::oci::{Digest, ImageName, Tag, pairs, percent_decoded};
use crate::store::Pin;
use crate::web::ASSET_PREFIX;

/// A request, parsed except for its body.
#[derive(Debug)]
pub enum Operation {
    Health,
    OpenApi,
    /// The web page, or one of its files.
    Web,
    Metrics,
    /// The statistics of the data port, without its client authentication.
    RegistryStats,
    StoreStats,
    Upstreams,
    ListImages(Box<ImageQuery>),
    ShowImage(ImageName),
    PurgeImage {
        name: ImageName,
        dry_run: bool,
    },
    ShowBlob(Digest),
    Explain {
        name: ImageName,
        /// The client of the pull. `None`: any client.
        user: Option<String>,
    },
    ListFills,
    /// The references that clients requested and the store lacks.
    ListMissing,
    ClearMissing,
    /// Whether an air-gapped cache over the store serves images whole.
    CheckReadiness,
    Events,
    ListPins,
    ChangePin {
        pin: Pin,
        is_added: bool,
    },
    PlanPrune,
    ApplyPrune {
        plan: u64,
    },
    Verify,
    Preload,
    Import(Box<ImportRule>),
    ListJobs,
    ShowJob {
        id: u64,
    },
    CancelJob {
        id: u64,
    },
    Reload,
    Stop,
}

/// The methods of a resource.
const GET: &str = "GET, HEAD";
const POST: &str = "POST";

impl Operation {
    /// Parses a request.
    ///
    /// # Errors
    ///
    /// The path is unknown, the resource has other methods, or a part of the request is invalid.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, Problem> {
        let mut query = Query::parse(query.unwrap_or_default())?;
        let operation = operation(method, path, &mut query)?;
        query.check_empty()?;
        Ok(operation)
    }

    /// Returns the role that the operation needs.
    pub fn role(&self) -> Role {
        match self {
            Operation::Health | Operation::OpenApi | Operation::Web => Role::Anyone,
            Operation::Metrics | Operation::RegistryStats => Role::Local,
            Operation::StoreStats
            | Operation::Upstreams
            | Operation::ListImages(_)
            | Operation::ShowImage(_)
            | Operation::ShowBlob(_)
            | Operation::Explain { .. }
            | Operation::ListFills
            | Operation::ListMissing
            | Operation::CheckReadiness
            | Operation::Events
            | Operation::ListPins
            | Operation::ListJobs
            | Operation::ShowJob { .. } => Role::Read,
            Operation::PurgeImage { .. }
            | Operation::ChangePin { .. }
            | Operation::Verify
            | Operation::Preload
            | Operation::ClearMissing
            | Operation::Import(_)
            | Operation::CancelJob { .. } => Role::Operate,
            Operation::PlanPrune | Operation::ApplyPrune { .. } | Operation::Reload | Operation::Stop => {
                Role::Admin
            }
        }
    }
}

fn operation(method: &Method, path: &str, query: &mut Query) -> Result<Operation, Problem> {
    match path {
        "/health" => return read(method, || Ok(Operation::Health)),
        "/openapi.json" => return read(method, || Ok(Operation::OpenApi)),
        "/metrics" => return read(method, || Ok(Operation::Metrics)),
        "/_/stats" => return read(method, || Ok(Operation::RegistryStats)),
        "/" => return read(method, || Ok(Operation::Web)),
        _ if path.starts_with(ASSET_PREFIX) => return read(method, || Ok(Operation::Web)),
        _ => {}
    }
    let resource = path.strip_prefix("/api/v1/").ok_or(Problem::NotFound)?;
    match resource.split_once('/') {
        None => whole(method, resource, query),
        Some((kind, rest)) => part(method, kind, rest, query),
    }
}

/// Parses a request to a resource without a name.
fn whole(method: &Method, resource: &str, query: &mut Query) -> Result<Operation, Problem> {
    match resource {
        "stats" => read(method, || Ok(Operation::StoreStats)),
        "upstreams" => read(method, || Ok(Operation::Upstreams)),
        "images" => read(method, || Ok(Operation::ListImages(Box::new(query.images()?)))),
        "explain" => read(method, || {
            Ok(Operation::Explain {
                name: query.required("ref")?,
                user: query.take("user").filter(|user| !user.is_empty()),
            })
        }),
        "fills" => read(method, || Ok(Operation::ListFills)),
        "missing" => match *method {
            Method::GET | Method::HEAD => Ok(Operation::ListMissing),
            Method::DELETE => Ok(Operation::ClearMissing),
            _ => Err(Problem::Method("GET, HEAD, DELETE")),
        },
        "readiness" => post(method, || Ok(Operation::CheckReadiness)),
        "events" => read(method, || Ok(Operation::Events)),
        "pins" => read(method, || Ok(Operation::ListPins)),
        "jobs" => read(method, || Ok(Operation::ListJobs)),
        "prune" => post(method, || Ok(Operation::PlanPrune)),
        "verify" => post(method, || Ok(Operation::Verify)),
        "preload" => post(method, || Ok(Operation::Preload)),
        "import" => post(method, || Ok(Operation::Import(Box::new(query.import()?)))),
        "reload" => post(method, || Ok(Operation::Reload)),
        "stop" => post(method, || Ok(Operation::Stop)),
        _ => Err(Problem::NotFound),
    }
}

/// Parses a request to the resource `rest` among the resources of a kind.
fn part(method: &Method, kind: &str, rest: &str, query: &mut Query) -> Result<Operation, Problem> {
    match kind {
        "images" => match *method {
            Method::GET | Method::HEAD => Ok(Operation::ShowImage(parsed(rest)?)),
            Method::DELETE => Ok(Operation::PurgeImage {
                name: parsed(rest)?,
                dry_run: query.take_parsed("dry_run")?.unwrap_or(false),
            }),
            _ => Err(Problem::Method("GET, HEAD, DELETE")),
        },
        "blobs" => read(method, || Ok(Operation::ShowBlob(parsed(rest)?))),
        "pins" => {
            let is_added = match *method {
                Method::PUT => true,
                Method::DELETE => false,
                _ => return Err(Problem::Method("PUT, DELETE")),
            };
            let mut pin = Pin::parse(&decoded(rest)?)?;
            // A pin is removed by its pattern.
            if is_added && let Some(platforms) = query.take_parsed("platforms")? {
                pin = pin.for_platforms(platforms);
            }
            Ok(Operation::ChangePin { pin, is_added })
        }
        "jobs" => {
            let id = || rest.parse().map_err(|_| Problem::NoJob);
            match *method {
                Method::GET | Method::HEAD => Ok(Operation::ShowJob { id: id()? }),
                Method::DELETE => Ok(Operation::CancelJob { id: id()? }),
                _ => Err(Problem::Method("GET, HEAD, DELETE")),
            }
        }
        "prune" => {
            let plan = rest.strip_suffix("/apply").ok_or(Problem::NotFound)?;
            post(method, || {
                let plan = plan.parse().map_err(|_| Problem::NoPlan)?;
                Ok(Operation::ApplyPrune { plan })
            })
        }
        _ => Err(Problem::NotFound),
    }
}

fn read(
    method: &Method,
    operation: impl FnOnce() -> Result<Operation, Problem>,
) -> Result<Operation, Problem> {
    match *method {
        Method::GET | Method::HEAD => operation(),
        _ => Err(Problem::Method(GET)),
    }
}

fn post(
    method: &Method,
    operation: impl FnOnce() -> Result<Operation, Problem>,
) -> Result<Operation, Problem> {
    match *method {
        Method::POST => operation(),
        _ => Err(Problem::Method(POST)),
    }
}

fn decoded(part: &str) -> Result<Cow<'_, str>, Problem> {
    let text = percent_decode_str(part).decode_utf8();
    text.map_err(|_| Problem::Invalid("the path is no UTF-8".to_owned()))
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(part: &str) -> Result<T, Problem> {
    let text = decoded(part)?;
    text.parse().map_err(|error| Problem::Invalid(format!("{error}")))
}

/// The parameters of a query.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Result<Self, Problem> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for (name, value) in pairs(text).filter(|(name, _)| !name.is_empty()) {
            let value = percent_decoded(value)
                .ok_or_else(|| Problem::Invalid(format!("the value of the parameter {name} is no UTF-8")))?;
            if parameters.iter().any(|(known, _)| *known == name) {
                return Err(Problem::Invalid(format!("the parameter {name} occurs twice")));
            }
            parameters.push((name.into_owned(), value));
        }
        Ok(Query(parameters))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let place = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(place).1)
    }

    fn take_parsed<T: FromStr<Err: std::fmt::Display>>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let parse = |text: String| {
            text.parse()
                .map_err(|error| Problem::Invalid(format!("the parameter {name} is invalid: {error}")))
        };
        self.take(name).map(parse).transpose()
    }

    fn required<T: FromStr<Err: std::fmt::Display>>(&mut self, name: &str) -> Result<T, Problem> {
        let missing = || Problem::Invalid(format!("the parameter {name} is missing"));
        self.take_parsed(name)?.ok_or_else(missing)
    }

    fn check_empty(&self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::Invalid(format!(
                "the resource has no parameter {name}; see docs/reference/admin-api.md"
            ))),
        }
    }

    fn import(&mut self) -> Result<ImportRule, Problem> {
        let is_public = self.take_parsed("public")?.unwrap_or(false);
        let is_dry_run = self.take_parsed("dry_run")?.unwrap_or(false);
        let name = self.take("name");
        ImportRule::new(is_public, is_dry_run, name.as_deref()).map_err(Problem::Invalid)
    }

    fn images(&mut self) -> Result<ImageQuery, Problem> {
        let after = self.take("cursor").map(|text| {
            Cursor::parse(&text).ok_or_else(|| {
                Problem::Invalid("the cursor is invalid; use the member `next` of a page".to_owned())
            })
        });
        let after = after.transpose()?;
        let sort: Sort = self.take_parsed("sort")?.unwrap_or_default();
        if after.as_ref().is_some_and(|after| after.sort() != sort) {
            return Err(Problem::Invalid(
                "the cursor belongs to another order; repeat the parameter sort of the earlier page"
                    .to_owned(),
            ));
        }
        let limit = self.take_parsed("limit")?.unwrap_or(ADMIN_PAGE_DEFAULT);
        if !(1..=ADMIN_PAGE_MAX).contains(&limit) {
            return Err(Problem::Invalid(format!(
                "the limit must be a number from 1 to {ADMIN_PAGE_MAX}"
            )));
        }
        let tag: Option<Tag> = self.take_parsed("tag")?;
        let pattern = self.take("pattern").unwrap_or_default();
        Ok(ImageQuery {
            registry: self.take_parsed("registry")?,
            repository: self.take_parsed("repository")?,
            tag: tag.map(|tag| tag.to_string()),
            digest: self.take_parsed("digest")?,
            filter: ImageFilter::parse(&pattern).map_err(Problem::Invalid)?,
            pinned: self.take_parsed("pinned")?,
            complete: self.take_parsed("complete")?,
            sort,
            after,
            limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Operation, Problem> {
        let (method, target) = line.split_once(' ').expect("method and target");
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        Operation::parse(&method.parse().unwrap(), path, query)
    }

    #[test]
    fn each_resource_has_its_methods_and_roles() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (line, role) in [
            ("GET /health", Role::Anyone),
            ("HEAD /health", Role::Anyone),
            ("GET /openapi.json", Role::Anyone),
            ("GET /_/stats", Role::Local),
            ("GET /metrics", Role::Local),
            ("GET /api/v1/stats", Role::Read),
            ("GET /api/v1/upstreams", Role::Read),
            (
                "GET /api/v1/images?registry=docker.io&limit=5&pinned=true",
                Role::Read,
            ),
            ("GET /api/v1/images/docker.io%2Flibrary%2Falpine%3A3", Role::Read),
            ("GET /api/v1/images/docker.io/library/alpine:3", Role::Read),
            ("DELETE /api/v1/images/alpine?dry_run=true", Role::Operate),
            (&format!("GET /api/v1/blobs/{digest}"), Role::Read),
            ("GET /api/v1/explain?ref=alpine:3", Role::Read),
            ("GET /api/v1/images?sort=-size", Role::Read),
            ("GET /api/v1/fills", Role::Read),
            ("GET /api/v1/events", Role::Read),
            ("GET /api/v1/explain?ref=alpine:3&user=alice", Role::Read),
            ("GET /api/v1/pins", Role::Read),
            ("PUT /api/v1/pins/quay.io%2F**", Role::Operate),
            (
                "PUT /api/v1/pins/redis:%5E7.2?platforms=linux%2Famd64,linux/arm64",
                Role::Operate,
            ),
            ("DELETE /api/v1/pins/alpine", Role::Operate),
            ("POST /api/v1/prune", Role::Admin),
            ("POST /api/v1/prune/7/apply", Role::Admin),
            ("POST /api/v1/verify", Role::Operate),
            ("POST /api/v1/preload", Role::Operate),
            ("GET /api/v1/missing", Role::Read),
            ("DELETE /api/v1/missing", Role::Operate),
            ("POST /api/v1/readiness", Role::Read),
            ("GET /api/v1/jobs", Role::Read),
            ("GET /api/v1/jobs/1", Role::Read),
            ("DELETE /api/v1/jobs/1", Role::Operate),
            ("POST /api/v1/reload", Role::Admin),
            ("POST /api/v1/stop", Role::Admin),
        ] {
            let operation = parse(line).unwrap_or_else(|problem| panic!("{line}: {problem}"));
            assert_eq!(operation.role(), role, "{line}");
        }
    }

    /// A target of each operation in the description.
    fn described() -> Vec<(String, String)> {
        let description: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let paths = description["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(|method| (method.to_uppercase(), path.clone()))
        });
        operations.collect()
    }

    #[test]
    fn each_described_operation_exists_with_its_role() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let description: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        for (method, path) in described() {
            let described = &description["paths"][&path][method.to_lowercase()]["description"];
            let described = described.as_str().unwrap();
            let target = path
                .replace("{name}", "alpine:3")
                .replace("{pattern}", "alpine")
                .replace("{digest}", &digest)
                .replace("{plan}", "1")
                .replace("{id}", "1")
                .replace("/explain", "/explain?ref=alpine");
            let operation = parse(&format!("{method} {target}"));
            let operation = operation.unwrap_or_else(|problem| panic!("{method} {target}: {problem}"));
            let role = match operation.role() {
                Role::Anyone | Role::Local => "none".to_owned(),
                role => format!("`{}`", role.word()),
            };
            assert!(
                described.contains(&format!("Role: {role}")),
                "{method} {path}: {described}"
            );
        }
        // A pin has two methods.
        assert_eq!(described().len(), 29);
    }

    #[test]
    fn other_method_is_answered_with_the_methods_of_the_resource() {
        for (line, allowed) in [
            ("POST /health", GET),
            ("GET /api/v1/stop", POST),
            ("GET /api/v1/prune", POST),
            ("DELETE /api/v1/prune/7/apply", POST),
            ("POST /api/v1/images", GET),
            ("POST /api/v1/images/alpine", "GET, HEAD, DELETE"),
            ("GET /api/v1/pins/alpine", "PUT, DELETE"),
            ("PUT /api/v1/blobs/x", GET),
        ] {
            let problem = parse(line).unwrap_err();
            assert!(
                matches!(problem, Problem::Method(methods) if methods == allowed),
                "{line}: {problem}"
            );
        }
    }

    #[test]
    fn unknown_path_is_not_found() {
        for line in [
            "GET /index.html",
            "GET /metrics/x",
            "GET /api/v1",
            "GET /api/v1/",
            "GET /api/v1/other",
            "GET /api/v2/stats",
            "POST /api/v1/prune/7",
            "GET /api/v1/stats/",
        ] {
            let problem = parse(line).unwrap_err();
            assert!(matches!(problem, Problem::NotFound), "{line}: {problem}");
        }
        assert!(matches!(
            parse("POST /api/v1/prune/x/apply"),
            Err(Problem::NoPlan)
        ));
    }

    #[test]
    fn invalid_part_is_an_error_with_its_name() {
        for (line, part) in [
            ("GET /api/v1/images?limit=0", "1 to"),
            ("GET /api/v1/images?limit=x", "limit"),
            ("GET /api/v1/images?sort=date", "name, size, used or created"),
            ("GET /api/v1/explain", "ref is missing"),
            ("GET /api/v1/explain?ref=A%20B", "no name of an image"),
            ("GET /api/v1/images?cursor=x", "cursor"),
            (
                // The cursor of a listing by name.
                "GET /api/v1/images?sort=size&cursor=WyJuYW1lIiwwLCJhLmIiLCJjIiwidiIsImQiXQ",
                "another order",
            ),
            ("GET /api/v1/images?tag=a&tag=b", "tag occurs twice"),
            ("GET /api/v1/images?tag=a%20b", "tag"),
            ("GET /api/v1/images?pinned=yes", "pinned"),
            ("GET /api/v1/images?pattern=(", "regular expression"),
            ("GET /api/v1/images/A%20B", "no name of an image"),
            ("GET /api/v1/images/%ff", "UTF-8"),
            ("DELETE /api/v1/images/alpine?dry_run=1", "dry_run"),
            ("PUT /api/v1/pins/alpine?platforms=amd64", "platforms"),
            ("PUT /api/v1/pins/alpine?platforms=", "platforms"),
            (
                "DELETE /api/v1/pins/alpine?platforms=all",
                "no parameter platforms",
            ),
            ("GET /api/v1/blobs/sha256:1", "digest"),
            ("GET /api/v1/stats?token=secret", "no parameter token"),
        ] {
            let problem = parse(line).unwrap_err();
            assert!(matches!(problem, Problem::Invalid(_)), "{line}: {problem:?}");
            assert!(problem.to_string().contains(part), "{line}: {problem}");
        }
    }
}
