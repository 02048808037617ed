//! Field values that are lists of tokens, and the names of fields that are looked up later.

pub const ACCEPT: &str = "Accept";
pub const IF_NONE_MATCH: &str = "If-None-Match";
pub const TRACEPARENT: &str = "traceparent";
pub const VIA: &str = "Via";
pub const X_REGISTRY: &str = "X-Registry";

/// Returns whether the value of a `Connection` field contains `field`, ignoring case.
pub fn names_field(connection: &str, field: &str) -> bool {
    list_members(connection).any(|member| member.eq_ignore_ascii_case(field))
}

/// Returns the non-empty members of a comma-separated list of tokens (RFC 9110, 5.6.1), without
/// surrounding whitespace. Not for lists with quoted commas.
fn list_members(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(trim_ows).filter(|member| !member.is_empty())
}

/// Removes spaces and tabs at both ends of `text`: the optional whitespace of HTTP.
pub fn trim_ows(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_field_lists_hop_by_hop_fields() {
        assert!(names_field("close,\tX-Trace , ,a", "x-trace"));
        assert!(!names_field("close, X-Trace-Id", "x-trace"));
        assert!(!names_field("", ""));
    }
}
