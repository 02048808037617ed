//! The embedded styles and scripts. The path of a file contains a hash of its content, so a browser may
//! keep the file forever.

use std::fmt::Write as _;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{SHA256, digest};

/// The beginning of the paths of all files. No path of the registry API starts with it.
pub const ASSET_PREFIX: &str = "/ui/";

/// The bytes of a hash in a path. 8 bytes tell all files of all versions apart.
const HASH_BYTES: usize = 8;

const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// The browser checks a page with its entity tag at each visit.
const REVALIDATED: &str = "no-cache";

const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// A file before the hashes are known.
struct Source {
    name: &'static str,
    extension: &'static str,
    media_type: &'static str,
    text: &'static str,
}

macro_rules! source {
    ($name:literal, $extension:literal, $media_type:expr) => {
        Source {
            name: $name,
            extension: $extension,
            media_type: $media_type,
            text: include_str!(concat!("files/", $name, ".", $extension)),
        }
    };
}

/// The files. A script follows the scripts that it imports.
const SOURCES: [Source; 11] = [
    source!("style", "css", CSS),
    source!("admin-style", "css", CSS),
    source!("dom", "js", JAVASCRIPT),
    source!("reference", "js", JAVASCRIPT),
    source!("pull", "js", JAVASCRIPT),
    source!("format", "js", JAVASCRIPT),
    source!("api", "js", JAVASCRIPT),
    source!("overview", "js", JAVASCRIPT),
    source!("images", "js", JAVASCRIPT),
    source!("jobs", "js", JAVASCRIPT),
    source!("admin", "js", JAVASCRIPT),
];

/// The content of a response, with its fields.
#[derive(Clone, Debug)]
pub struct WebFile {
    pub media_type: &'static str,
    pub cache_control: &'static str,
    /// The entity tag, with quotes. Differs between the codings of a file.
    pub etag: String,
    /// Whether the body is compressed with gzip.
    pub is_gzip: bool,
    pub body: Bytes,
}

impl WebFile {
    /// Returns a page that the browser checks at each visit.
    pub fn page(html: String) -> Self {
        WebFile::new(HTML, REVALIDATED, html.into_bytes())
    }

    fn new(media_type: &'static str, cache_control: &'static str, body: Vec<u8>) -> Self {
        WebFile {
            media_type,
            cache_control,
            etag: format!("\"{}\"", hash(&body)),
            is_gzip: false,
            body: body.into(),
        }
    }

    /// Returns the same content, compressed.
    pub fn compressed(&self) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let written = encoder.write_all(&self.body).and_then(|()| encoder.finish());
        let body = written.expect("a vector accepts all bytes");
        WebFile {
            etag: format!("\"{}\"", hash(&body)),
            is_gzip: true,
            body: body.into(),
            ..*self
        }
    }
}

/// A file with its final path, plain and compressed.
#[derive(Debug)]
struct Asset {
    name: &'static str,
    path: String,
    plain: WebFile,
    gzip: WebFile,
}

/// All files.
#[derive(Debug)]
pub struct Assets(Vec<Asset>);

impl Assets {
    /// Hashes and compresses the files. The imports of a script get the hashes of the imported files.
    pub fn load() -> Self {
        let mut assets: Vec<Asset> = Vec::with_capacity(SOURCES.len());
        for Source {
            name,
            extension,
            media_type,
            text,
        } in SOURCES
        {
            let mut text = text.to_owned();
            for known in &assets {
                let import = format!("\"./{}.js\"", known.name);
                text = text.replace(&import, &format!("\"{}\"", known.path));
            }
            let plain = WebFile::new(media_type, IMMUTABLE, text.into_bytes());
            assets.push(Asset {
                name,
                path: format!("{ASSET_PREFIX}{name}.{}.{extension}", hash(&plain.body)),
                gzip: plain.compressed(),
                plain,
            });
        }
        Assets(assets)
    }

    /// Returns the path of the file `name`.
    pub fn path(&self, name: &str) -> &str {
        let asset = self.0.iter().find(|asset| asset.name == name);
        &asset.expect("the pages name files of the table only").path
    }

    /// Returns the file with this path.
    pub fn find(&self, path: &str, accepts_gzip: bool) -> Option<&WebFile> {
        let asset = self.0.iter().find(|asset| asset.path == path)?;
        Some(if accepts_gzip { &asset.gzip } else { &asset.plain })
    }
}

fn hash(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest.as_ref()[..HASH_BYTES]
        .iter()
        .fold(String::new(), |mut hex, byte| {
            // Writing to a `String` cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bound of all files of the web page, compressed.
    const BYTES_MAX: usize = 60 * 1024;

    #[test]
    fn imports_name_existing_files_by_their_hashes() {
        let assets = Assets::load();
        for asset in &assets.0 {
            let text = std::str::from_utf8(&asset.plain.body).unwrap();
            for import in text.lines().filter(|line| line.starts_with("import ")) {
                let path = import.split('"').nth(1).unwrap();
                assert!(assets.find(path, false).is_some(), "{}: {import}", asset.name);
            }
        }
    }

    #[test]
    fn files_are_small_and_name_no_other_host() {
        let assets = Assets::load();
        let bytes: usize = assets.0.iter().map(|asset| asset.gzip.body.len()).sum();
        assert!(bytes < BYTES_MAX, "{bytes} bytes");
        for asset in &assets.0 {
            let text = std::str::from_utf8(&asset.plain.body).unwrap();
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!text.contains(forbidden), "{} contains {forbidden}", asset.name);
            }
        }
    }

    #[test]
    fn a_path_of_another_hash_is_unknown() {
        let assets = Assets::load();
        assert!(assets.find(assets.path("style"), true).unwrap().is_gzip);
        for path in ["/ui/", "/ui/style.css", "/ui/style.0000000000000000.css"] {
            assert!(assets.find(path, true).is_none(), "{path}");
        }
    }
}
