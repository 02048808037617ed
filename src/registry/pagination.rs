//! Parses the query of a list request, and builds the link to the next page. Pure.

use super::route_error::RouteError;
use crate::limits::TAGS_PER_PAGE_MAX;
use crate::oci::{ListQuery, pairs, percent_decoded};

/// Returns the page of `tags/list` to request from the upstream; `None` for an empty page (`n=0`).
///
/// `n` is capped at [`TAGS_PER_PAGE_MAX`]. Unknown keys are forwarded, because registries use their
/// own keys to continue a list.
pub fn tags(query: Option<&str>) -> Result<Option<ListQuery>, RouteError> {
    let mut page = ListQuery::default();
    let mut nothing = false;
    for (key, value) in pairs(query.unwrap_or_default()) {
        let once = || page.get(&key).is_none();
        match &*key {
            "ns" => {}
            "n" if value.is_empty() => {}
            "n" => {
                if !once() || nothing {
                    return Err(RouteError::Page);
                }
                let number = percent_decoded(value).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                // Digits beyond `u64` are a valid, large number.
                let number = number.ok_or(RouteError::Page)?.parse().unwrap_or(u64::MAX);
                nothing = number == 0;
                if !nothing {
                    push(&mut page, &key, &number.min(TAGS_PER_PAGE_MAX).to_string())?;
                }
            }
            "last" if !once() => return Err(RouteError::Page),
            _ => push(&mut page, &key, value)?,
        }
    }
    Ok((!nothing).then_some(page))
}

/// Returns the page of `referrers` to request from the upstream.
pub fn referrers(query: Option<&str>) -> Result<ListQuery, RouteError> {
    let mut page = ListQuery::default();
    for (key, value) in pairs(query.unwrap_or_default()) {
        match &*key {
            "ns" => {}
            "artifactType" if value.is_empty() => {}
            "artifactType" if page.get(&key).is_some() || percent_decoded(value).is_none() => {
                return Err(RouteError::Page);
            }
            _ => push(&mut page, &key, value)?,
        }
    }
    Ok(page)
}

/// Returns the `Link` value for the page `next` of the list at `path`, with the client's `ns`.
/// `None` if the query is too long.
pub fn link(path: &str, next: &ListQuery, ns: Option<&str>) -> Option<String> {
    let mut query = next.clone();
    if let Some(ns) = ns {
        // Only the colon of a registry name has a meaning in a query, and clients escape the colon.
        query.push("ns", &ns.replace(':', "%3A")).ok()?;
    }
    Some(format!("<{path}?{}>; rel=\"next\"", query.as_str()))
}

fn push(query: &mut ListQuery, key: &str, value: &str) -> Result<(), RouteError> {
    query.push(key, value).map_err(|_| RouteError::Page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_tags_is_asked_for_as_the_client_does_and_no_larger() {
        let page = |query: &str| tags(Some(query)).map(|page| page.map(|query| query.as_str().to_owned()));
        let is = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(tags(None), Ok(Some(ListQuery::default())));
        assert_eq!(page("n=5&last=b&ns=r.example"), is("n=5&last=b"));
        assert_eq!(page("n=1000"), is("n=1000"));
        assert_eq!(page("n=1001&next_page=x%3D"), is("n=1000&next_page=x%3D"));
        assert_eq!(page("n=99999999999999999999999999"), is("n=1000"));
        assert_eq!(page("n="), is(""));
        assert_eq!(page("n=0&last=a"), Ok(None));
        assert_eq!(page("n=%35"), is("n=5"));
        for bad in [
            "n=-1",
            "n=x",
            "n=1.5",
            "n=+1",
            "n=1&n=2",
            "n=0&n=1",
            "n=%31%",
            "last=a&last=b",
        ] {
            assert_eq!(page(bad), Err(RouteError::Page), "{bad}");
        }
        assert_eq!(
            page(&format!("last={}", "x".repeat(3_000))),
            Err(RouteError::Page)
        );
    }

    #[test]
    fn a_page_of_referrers_has_one_filter() {
        let page = |query: &str| referrers(Some(query)).map(|query| query.as_str().to_owned());
        assert_eq!(
            page("artifactType=a%2Fb%2Bjson&ns=x").as_deref(),
            Ok("artifactType=a%2Fb%2Bjson")
        );
        assert_eq!(page("artifactType=&last=1").as_deref(), Ok("last=1"));
        for bad in [
            "artifactType=a&artifactType=b",
            "artifactType=%zz",
            "artifactType=%00",
        ] {
            assert_eq!(page(bad), Err(RouteError::Page), "{bad}");
        }
    }

    #[test]
    fn next_page_link_leads_to_the_cache() {
        let mut next = ListQuery::default();
        next.push("n", "2").unwrap();
        assert_eq!(
            link("/v2/r.example/a/tags/list", &next, None).unwrap(),
            "</v2/r.example/a/tags/list?n=2>; rel=\"next\""
        );
        assert_eq!(
            link("/v2/a/tags/list", &next, Some("localhost:5000")).unwrap(),
            "</v2/a/tags/list?n=2&ns=localhost%3A5000>; rel=\"next\""
        );
    }
}
