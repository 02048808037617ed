//! JSON Web Tokens for a real registry, signed with a key whose certificate the registry trusts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use super::registry::access::{Auth, base64};

/// A key and its certificate.
pub struct Signer {
    key: EcdsaKeyPair,
    /// The certificate's DER, in base64.
    certificate: String,
    /// PEM, for `rootcertbundle`.
    pub certificate_path: PathBuf,
}

/// The issuer of the tokens.
pub const ISSUER: &str = "the harness";

impl Signer {
    /// Makes a key and a certificate in `dir` with OpenSSL.
    pub fn new(dir: &Path) -> Self {
        let openssl = |args: &[&str]| {
            let output = Command::new("openssl").current_dir(dir).args(args).output();
            let output = output.expect("openssl can be started");
            assert!(output.status.success(), "openssl {args:?}: {output:?}");
        };
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=token",
            "-keyout",
            "token.key",
            "-out",
            "token.pem",
        ]);
        openssl(&[
            "pkcs8",
            "-topk8",
            "-nocrypt",
            "-in",
            "token.key",
            "-outform",
            "DER",
            "-out",
            "token.der",
        ]);
        let key = std::fs::read(dir.join("token.der")).expect("just written");
        let certificate_path = dir.join("token.pem");
        let pem = std::fs::read_to_string(&certificate_path).expect("just written");
        Signer {
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key, &SystemRandom::new())
                .expect("a P-256 key"),
            certificate: pem.lines().filter(|line| !line.starts_with("-----")).collect(),
            certificate_path,
        }
    }

    /// Returns a token with which `user` may pull from `repositories`. Age and lifetime come from
    /// `auth`.
    pub fn token(&self, auth: &Auth, user: Option<&str>, repositories: &[String]) -> String {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970");
        let signed = now - auth.token_age;
        let (signed, until) = (signed.as_secs(), (signed + auth.token_ttl).as_secs());
        let access: Vec<_> = repositories
            .iter()
            .map(|name| json!({"type": "repository", "name": name, "actions": ["pull"]}))
            .collect();
        let head = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": ISSUER, "sub": user.unwrap_or_default(), "aud": auth.service, "exp": until, "nbf": signed,
            "iat": signed, "jti": super::fresh_seed().to_string(), "access": access,
        });
        let text = format!(
            "{}.{}",
            base64url(head.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        let signature = self
            .key
            .sign(&SystemRandom::new(), text.as_bytes())
            .expect("a working key");
        format!("{text}.{}", base64url(signature.as_ref()))
    }
}

fn base64url(bytes: &[u8]) -> String {
    base64(bytes)
        .trim_end_matches('=')
        .replace('+', "-")
        .replace('/', "_")
}
