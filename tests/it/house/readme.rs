//! The table of features in `tests/README.md`, compared with the folders.

use std::fs;
use std::path::Path;

#[test]
fn the_readme_of_the_tests_lists_every_file() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let readme = fs::read_to_string(tests.join("README.md")).unwrap();
    let mut files = Vec::new();
    for folder in fs::read_dir(tests.join("it")).unwrap() {
        let folder = folder.unwrap().path();
        if !folder.is_dir() || folder.ends_with("harness") {
            continue;
        }
        for file in fs::read_dir(&folder).unwrap() {
            let file = file.unwrap().path();
            if !file.ends_with("mod.rs") {
                files.push(file.strip_prefix(&tests).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    assert!(!files.is_empty(), "no file was found");
    files.retain(|file| !readme.contains(&format!("]({file})")));
    assert!(files.is_empty(), "tests/README.md does not list {files:?}");
    for link in readme.split("](it/").skip(1) {
        let file = Path::new("it").join(link.split(')').next().unwrap());
        assert!(
            tests.join(&file).exists(),
            "tests/README.md lists {file:?}, which does not exist"
        );
    }
}
