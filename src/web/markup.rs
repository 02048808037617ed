//! Text for HTML. Pure.

/// Escapes a text for an element or for an attribute in quotes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Replaces each `{name}` in `template` by its value. Text between other braces stays. A value is never
/// searched for names.
pub fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let found = values.iter().find_map(|(name, value)| {
            let after = from[1..].strip_prefix(name)?.strip_prefix('}')?;
            Some((*value, after))
        });
        match found {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_never_becomes_markup() {
        let text = "<img src=x onerror='alert(1)'>&\"";
        let html = "&lt;img src=x onerror=&#39;alert(1)&#39;&gt;&amp;&quot;";
        assert_eq!(escaped(text), html);
    }

    #[test]
    fn names_are_replaced_once_and_other_braces_stay() {
        let values = [("a", "{b}"), ("b", "2")];
        assert_eq!(
            filled("{a} {b} {c} {\"a\": 1} {", &values),
            "{b} 2 {c} {\"a\": 1} {"
        );
    }
}
