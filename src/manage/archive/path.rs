//! Paths of entries. A path has normal components only, so a path never leaves the archive.

/// Returns the path of an entry without `.` and empty components. The root of the archive is empty.
/// `None` for a path with a `..`, an absolute path, and a path with a zero byte.
pub fn inside(path: &str) -> Option<String> {
    if path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Returns the path in the archive to which the symbolic link at `link` with `target` leads. `None` if
/// the link leaves the archive. Compares names only, and looks at no file.
pub fn resolved(link: &str, target: &str) -> Option<String> {
    if target.starts_with('/') || target.contains('\0') {
        return None;
    }
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn path_of_an_entry_stays_inside_the_archive() {
        for (path, expected) in [
            ("index.json", Some("index.json")),
            ("./blobs//sha256/./a/", Some("blobs/sha256/a")),
            ("./", Some("")),
            ("..a/b..", Some("..a/b..")),
            ("/etc/passwd", None),
            ("//a", None),
            ("..", None),
            ("a/../../b", None),
            ("a/..", None),
            ("a\0b", None),
        ] {
            assert_eq!(inside(path).as_deref(), expected, "{path:?}");
        }
    }

    #[test]
    fn link_leads_to_a_path_inside_the_archive() {
        for (link, target, expected) in [
            ("a/layer.tar", "../b/layer.tar", Some("b/layer.tar")),
            ("a", "b", Some("b")),
            ("a/b/c", "../../d", Some("d")),
            ("a/b", "./c//d", Some("a/c/d")),
            ("a", "../b", None),
            ("a/b", "../../c", None),
            ("a", "/etc/passwd", None),
            ("a", "b\0c", None),
        ] {
            assert_eq!(resolved(link, target).as_deref(), expected, "{link:?} {target:?}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_archive(link in "[a./]{0,12}", target in "[a./]{0,12}") {
            let own = inside(&link);
            let target = own.as_ref().and_then(|link| resolved(link, &target));
            for path in [own, target].into_iter().flatten().filter(|path| !path.is_empty()) {
                prop_assert!(!path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path:?}");
            }
        }
    }
}
