//! Metadata service of a cloud machine (AWS IMDSv2) that returns the region and credentials.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::bucket::{ACCESS_KEY, SECRET_KEY};

/// A metadata service that runs until the test process ends.
pub struct Metadata {
    addr: SocketAddr,
}

impl Metadata {
    /// Starts the service of a machine in `region`, with credentials for the bucket of
    /// [`super::Bucket`].
    pub fn start(region: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(&stream, region));
            }
        });
        Metadata { addr }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

fn serve(mut stream: &TcpStream, region: &str) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        let fields: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let (status, body) = answer(&request, &fields, region);
        let answer = format!(
            "HTTP/1.1 {status}\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(request: &str, fields: &[String], region: &str) -> (&'static str, String) {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let path = request.split(' ').nth(1).unwrap_or_default();
    if request.starts_with("PUT ") && path == "/latest/api/token" {
        return ("200 OK", "a token".into());
    }
    let has_token = fields
        .iter()
        .any(|field| field.eq_ignore_ascii_case("x-aws-ec2-metadata-token: a token"));
    match path.strip_prefix(ROLES) {
        _ if !has_token => ("401 Unauthorized", String::new()),
        None if path == "/latest/meta-data/placement/region" => ("200 OK", region.into()),
        Some("") => ("200 OK", "role".into()),
        Some("role") => (
            "200 OK",
            format!(
                r#"{{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "{ACCESS_KEY}", "SecretAccessKey": "{SECRET_KEY}",
                    "Token": "a session", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2099-01-01T00:00:00Z"}}"#
            ),
        ),
        _ => ("404 Not Found", String::new()),
    }
}
