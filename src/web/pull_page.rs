//! The page of the data port: a builder of pull commands and the configuration of clients. The page
//! works without JavaScript: the form sends the image in the query, and radio buttons select a client.

use super::assets::{Assets, WebFile};
use super::client_setup::{CLIENTS, ClientSetup};
use super::commands::{PulledNames, TOOLS, Tool};
use super::markup::{escaped, filled};
use super::pasted::image_in;
use crate::config::BaseUrl;
use crate::oci::{ImageName, pairs, percent_decoded};

const TEMPLATE: &str = include_str!("files/pull.html");

/// The image of a page without a valid name.
const EXAMPLE: &str = "docker.io/library/alpine:3.20";

/// The address of a page for a request without a usable `Host`.
const EXAMPLE_ADDRESS: &str = "http://localhost:8080";

/// The message for a text without a name.
const NO_NAME: &str = "This is no name of an image. Expected: [registry/]repository[:tag][@digest]";

/// The message for a registry that no image name can contain.
const NO_PART: &str = "An image name cannot contain this registry. Use the cache as a mirror instead.";

/// The values of the form.
struct Form {
    image: String,
    tool: &'static Tool,
}

impl Form {
    /// Parses the query of a form. Unknown values are the default.
    fn parse(query: &str) -> Self {
        let mut form = Form {
            image: String::new(),
            tool: &TOOLS[0],
        };
        for (name, value) in pairs(query) {
            // A form sends a space as a plus sign.
            let value = percent_decoded(&value.replace('+', "%20")).unwrap_or_else(|| value.to_owned());
            match &*name {
                "image" => form.image = value,
                "tool" => form.tool = TOOLS.iter().find(|tool| tool.id == value).unwrap_or(form.tool),
                _ => {}
            }
        }
        form
    }
}

/// Renders the page for the values of the query.
pub fn render(assets: &Assets, address: Option<&BaseUrl>, query: &str) -> WebFile {
    let form = Form::parse(query);
    let example_address = || BaseUrl::parse(EXAMPLE_ADDRESS).expect("the example is a valid address");
    let address = &address.cloned().unwrap_or_else(example_address);
    let (names, error) = names_of(&form.image, address);
    let tools: String = TOOLS
        .iter()
        .map(|tool| choice("tool", tool.id, tool.name, tool.id == form.tool.id))
        .collect();
    let commands: String = TOOLS
        .iter()
        .map(|tool| commands_of(tool, &names, address))
        .collect();
    let clients = CLIENTS.iter().enumerate();
    let clients: String = clients
        .map(|(at, client)| choice("client", client.id, client.name, at == 0))
        .collect();
    let setups: String = CLIENTS.iter().map(|client| setup_of(client, address)).collect();
    let html = filled(
        TEMPLATE,
        &[
            ("style", assets.path("style")),
            ("script", assets.path("pull")),
            ("address", &escaped(&address.to_string())),
            ("authority", &escaped(address.authority())),
            ("image", &escaped(&form.image)),
            ("error", error),
            ("error-hidden", if error.is_empty() { " hidden" } else { "" }),
            ("no-name", NO_NAME),
            ("no-part", NO_PART),
            ("tools", &tools),
            ("commands", &commands),
            ("clients", &clients),
            ("setups", &setups),
            ("version", env!("CARGO_PKG_VERSION")),
        ],
    );
    WebFile::page(html)
}

/// Returns the names of the image in `text`, or of the example with a message.
fn names_of(text: &str, address: &BaseUrl) -> (PulledNames, &'static str) {
    let example: ImageName = EXAMPLE.parse().expect("the example is a valid name");
    let example =
        || PulledNames::new(address, &example).expect("a name can contain the registry of the example");
    if text.trim().is_empty() {
        return (example(), "");
    }
    match image_in(text, Some(address)) {
        Err(_) => (example(), NO_NAME),
        Ok(image) => match PulledNames::new(address, &image) {
            None => (example(), NO_PART),
            Some(names) => (names, ""),
        },
    }
}

/// Returns a radio button with its label.
fn choice(group: &str, id: &str, name: &str, is_checked: bool) -> String {
    let checked = if is_checked { " checked" } else { "" };
    format!(
        "<input type=\"radio\" name=\"{group}\" value=\"{id}\" id=\"{group}-{id}\"{checked}>\
        <label for=\"{group}-{id}\">{name}</label>"
    )
}

/// Returns the commands of a client, with their templates for the script.
fn commands_of(tool: &Tool, names: &PulledNames, address: &BaseUrl) -> String {
    let mut html = format!(
        "<div class=\"choice\" data-tool=\"{}\"><h2>{}</h2>",
        tool.id, tool.name
    );
    for command in tool.commands {
        let by_tag = tool.with_option(command.by_tag, address);
        let by_digest = command
            .by_digest
            .map(|template| tool.with_option(template, address));
        let template = match names.is_by_digest() {
            true => by_digest.as_deref(),
            false => Some(&*by_tag),
        };
        let text = template
            .map(|template| names.command(template))
            .unwrap_or_default();
        let hidden = if template.is_none() { " hidden" } else { "" };
        html += &format!(
            "<div class=\"command\"{hidden}><p class=\"label\">{}</p>{}</div>",
            command.label,
            code(
                &text,
                &format!(
                    " data-tag=\"{}\" data-digest=\"{}\"",
                    escaped(&by_tag),
                    escaped(&by_digest.unwrap_or_default())
                )
            ),
        );
    }
    html + "</div>"
}

/// Returns the files of a client.
fn setup_of(client: &ClientSetup, address: &BaseUrl) -> String {
    let mut html = format!(
        "<div class=\"choice\" data-client=\"{}\"><h3>{}</h3>",
        client.id, client.name
    );
    for file in client.files {
        html += &format!("<p class=\"label\"><code>{}</code></p>", file.path);
        html += &code(&file.content(address), "");
        if !file.apply.is_empty() {
            html += "<p class=\"label\">Apply</p>";
            html += &code(file.apply, "");
        }
    }
    html + &format!("<p class=\"note\">{}</p></div>", client.note)
}

/// Returns a block of code. The script adds a button that copies the text.
fn code(text: &str, attributes: &str) -> String {
    format!(
        "<div class=\"code\"><pre tabindex=\"0\"><code{attributes}>{}</code></pre></div>",
        escaped(text.trim_end())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> String {
        let file = render(
            &Assets::load(),
            BaseUrl::parse("http://cache:8080").as_ref(),
            query,
        );
        String::from_utf8(file.body.to_vec()).unwrap()
    }

    #[test]
    fn page_has_the_commands_of_the_image_in_the_query() {
        let html = page("image=docker+pull+quay.io%2Fa%2Fb%3Av1&tool=podman");
        assert!(
            html.contains("podman pull --tls-verify=false cache:8080/quay.io/a/b:v1"),
            "{html}"
        );
        assert!(html.contains("id=\"tool-podman\" checked"), "{html}");
        assert!(
            !html.contains("{commands}") && !html.contains("{setups}"),
            "{html}"
        );
    }

    #[test]
    fn hostile_values_stay_text() {
        for value in [
            "<script>alert(1)</script>",
            "\"><img src=x onerror=alert(1)>",
            "'-alert(1)-'",
            "{commands}",
        ] {
            let encoded: String = value.bytes().map(|b| format!("%{b:02x}")).collect();
            for query in [
                format!("image={encoded}"),
                format!("tool={encoded}"),
                format!("image={value}"),
            ] {
                let html = page(&query);
                assert_eq!(html.matches("<script").count(), 1, "{query}: {html}");
                assert!(!html.contains("<img"), "{query}: {html}");
            }
        }
    }
}
