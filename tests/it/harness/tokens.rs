//! Client side of a Bearer challenge: fetches a token from the token service.

use super::client::Client;

/// Fetches the token for a challenge with this `Authorization`. Returns the `Authorization` value
/// to send next.
///
/// # Errors
///
/// Returns the token service's status if the status is not 200.
pub fn fetch(challenge: &str, authorization: &str) -> Result<String, u16> {
    let param = |name: &str| {
        let (_, rest) = challenge.split_once(&format!("{name}=\""))?;
        rest.split('"').next()
    };
    let realm = param("realm").expect("a realm");
    let realm = realm.strip_prefix("http://").expect("plain http");
    let (host, path) = realm.split_once('/').expect("a path");
    let target = format!(
        "/{path}?service={}&scope={}",
        param("service").unwrap_or_default().replace(' ', "+"),
        param("scope").unwrap_or_default()
    );
    let client = Client::new(host.parse().expect("an address"));
    let got = client.get_with(&target, &[("Authorization", authorization)]);
    if got.status != 200 {
        return Err(got.status);
    }
    let json: serde_json::Value = serde_json::from_slice(&got.body).expect("JSON");
    let token = json.get("token").or(json.get("access_token")).expect("a token");
    Ok(format!("Bearer {}", token.as_str().expect("a text")))
}
