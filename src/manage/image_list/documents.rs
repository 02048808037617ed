//! Finds names of images in YAML and JSON documents. The values are visited one after the other, so a
//! large list takes little memory.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Error;

use super::{ListError, NO_TEMPLATE};
use crate::limits::IMAGE_LIST_DEPTH_MAX;

/// Objects whose lists `images` and `additionalImages` are names of images: of hauler, Zarf and oc-mirror.
const KINDS_WITH_LISTS: [&str; 3] = ["Images", "ZarfPackageConfig", "ImageSetConfiguration"];

/// Returns the names in a stream of JSON documents.
pub(super) fn of_json(text: &str) -> Result<Vec<String>, ListError> {
    let mut names = Vec::new();
    for document in serde_json::Deserializer::from_str(text).into_iter::<Document>() {
        let document = document.map_err(|error| ListError::Syntax {
            line: error.line() as u64,
            why: error.to_string(),
            hint: "",
        })?;
        names.extend(document.0);
    }
    Ok(names)
}

/// Returns the names in a stream of YAML documents.
pub(super) fn of_yaml(text: &str) -> Result<Vec<String>, ListError> {
    // The size of the text bounds the numbers of nodes and documents.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: IMAGE_LIST_DEPTH_MAX,
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_documents: usize::MAX,
        },
    };
    let documents = serde_saphyr::from_multiple_with_options::<Document>(text, options);
    let documents = documents.map_err(|error| ListError::Syntax {
        line: error.location().map_or(1, |at| at.line()),
        why: reason(error.without_snippet()),
        hint: if text.contains("{{") { NO_TEMPLATE } else { "" },
    })?;
    Ok(documents.into_iter().flat_map(|document| document.0).collect())
}

fn reason(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The names of one document.
struct Document(Vec<String>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Found::default();
        Walk {
            found: &mut found,
            place: Place::Document,
        }
        .deserialize(deserializer)?;
        let is_listed = found.kind.is_some_and(|kind| KINDS_WITH_LISTS.contains(&&*kind));
        if is_listed {
            found.images.append(&mut found.listed);
        }
        Ok(Document(found.images))
    }
}

#[derive(Default)]
struct Found {
    kind: Option<String>,
    images: Vec<String>,
    /// Names that count if the kind has lists of names.
    listed: Vec<String>,
}

/// The place of a value in a document.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A document: an object, or a list of objects or names.
    Document,
    Kind,
    /// A value of which nothing is known.
    Any,
    /// `containers` and the like, and a container.
    Containers,
    /// `services` of a compose file.
    Services,
    Service,
    /// `volumes` of a pod, a volume, and its member `image`.
    Volumes,
    ImageVolume,
    /// `images` and the like, and an entry.
    List,
    /// A name of an image.
    Image,
    ListedImage,
}

impl Place {
    /// Returns the place of the member `key` of a map.
    fn member(self, key: &str) -> Place {
        match (self, key) {
            (Place::Document, "kind") => Place::Kind,
            (Place::Document, "services") => Place::Services,
            (Place::Services, _) => Place::Service,
            (Place::Containers | Place::Service, "image") => Place::Image,
            (Place::Volumes, "image") => Place::ImageVolume,
            (Place::ImageVolume, "reference") => Place::Image,
            (Place::List, "name") => Place::ListedImage,
            (_, "containers" | "initContainers" | "ephemeralContainers") => Place::Containers,
            (_, "volumes") => Place::Volumes,
            (_, "images" | "additionalImages") => Place::List,
            _ => Place::Any,
        }
    }
}

/// The visit of a value in its place.
struct Walk<'a> {
    found: &'a mut Found,
    place: Place,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Key>()? {
            map.next_value_seed(Walk {
                found: self.found,
                place: self.place.member(&key.0),
            })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        loop {
            let item = Walk {
                found: self.found,
                place: self.place,
            };
            if items.next_element_seed(item)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let Found { kind, images, listed } = self.found;
        match self.place {
            Place::Kind => *kind = Some(text.to_owned()),
            Place::Document | Place::Image if !text.is_empty() => images.push(text.to_owned()),
            Place::List | Place::ListedImage => listed.push(text.to_owned()),
            _ => {}
        }
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<(), E> {
        self.visit_number(&number)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<(), E> {
        self.visit_number(&number)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        self.visit_number(&number)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Walk<'_> {
    /// A number in the place of a name is a mistake, which the caller reports.
    fn visit_number<E: serde::de::Error>(self, number: &dyn fmt::Display) -> Result<(), E> {
        if self.place == Place::Image {
            return self.visit_str(&number.to_string());
        }
        Ok(())
    }
}

/// The key of a map. A key that is no text has no meaning here.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Key, E> {
                Ok(Key(text.to_owned()))
            }

            fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Key, E> {
                Ok(Key(String::new()))
            }

            fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Key, E> {
                Ok(Key(String::new()))
            }

            fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Key, E> {
                Ok(Key(String::new()))
            }

            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Key, E> {
                Ok(Key(String::new()))
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Key, E> {
                Ok(Key(String::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Key, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Key(String::new()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Key, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Key(String::new()))
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}
