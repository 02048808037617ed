//! The fetches of blobs before clients request the blobs.

/// The value of `PREFETCH`: the blobs that the cache fetches after a client has received the manifest
/// of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefetch {
    Off,
    /// The config alone.
    Config,
    /// The config and the layers.
    Image,
}

impl Prefetch {
    pub const WORDS: [(&str, Self); 3] = [
        ("off", Prefetch::Off),
        ("config", Prefetch::Config),
        ("image", Prefetch::Image),
    ];
}
