//! The table of images, one line per image.

use std::fmt::Write as _;

use super::{Image, ImageKind};
use crate::calendar::date_time;

/// The columns of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableColumns {
    /// The columns that scripts for other caches read.
    Short,
    /// All columns.
    Wide,
}

const SHORT: [&str; 6] = ["IMAGE", "TAG/DIGEST", "TYPE", "CREATED", "PULLED", "SIZE(MB)"];
const WIDE: [&str; 4] = ["DIGEST", "BLOBS", "MISSING", "PLATFORMS"];

/// Digits of a shortened digest.
const SHORT_DIGEST: usize = 10;

/// Returns the table of `images`. `header` adds a line with the names of the columns.
/// `short_digests` cuts digests to 10 digits.
pub fn table(images: &[Image], columns: TableColumns, header: bool, short_digests: bool) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    if header {
        let wide = WIDE.iter().filter(|_| columns == TableColumns::Wide);
        rows.push(SHORT.iter().chain(wide).map(|&name| name.to_owned()).collect());
    }
    rows.extend(images.iter().map(|image| row(image, columns, short_digests)));
    aligned(&rows)
}

fn row(image: &Image, columns: TableColumns, short_digests: bool) -> Vec<String> {
    let digest = if short_digests {
        let hex = image
            .digest
            .split_once(':')
            .map_or(&*image.digest, |(_, hex)| hex);
        hex.chars().take(SHORT_DIGEST).collect()
    } else {
        image.digest.clone()
    };
    let kind = match image.kind {
        ImageKind::List => "list",
        ImageKind::Image => "image",
    };
    let mut row = vec![
        image.repository.clone(),
        image.tag.clone().unwrap_or_else(|| digest.clone()),
        kind.to_owned(),
        image.created.map_or_else(|| "-".to_owned(), utc),
        utc(image.used),
        format!("{:.1}", image.size as f64 / 1e6),
    ];
    if columns == TableColumns::Wide {
        row.push(digest);
        row.push(image.blobs.to_string());
        row.push((image.missing_blobs + image.missing_manifests).to_string());
        row.push(if image.platforms.is_empty() {
            "-".to_owned()
        } else {
            image.platforms.join(",")
        });
    }
    row
}

/// Pads all columns but the last, and separates columns with a space.
fn aligned(rows: &[Vec<String>]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..count)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            // Writing to a `String` cannot fail.
            let _ = match column + 1 == count {
                true => writeln!(text, "{cell}"),
                false => write!(text, "{cell:<width$} ", width = widths[column]),
            };
        }
    }
    text
}

fn utc(seconds: u64) -> String {
    String::from_utf8_lossy(&date_time(seconds)).into_owned() + "Z"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> [Image; 2] {
        let image = Image {
            repository: "docker.io/library/alpine".to_owned(),
            tag: Some("3.20".to_owned()),
            digest: format!("sha256:{}", "ab".repeat(32)),
            kind: ImageKind::List,
            created: Some(1_709_210_096),
            used: 1_709_213_696,
            size: 3_649_999,
            platforms: vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()],
            blobs: 2,
            missing_blobs: 1,
            missing_manifests: 6,
        };
        let untagged = Image {
            repository: "r.example/a".to_owned(),
            tag: None,
            kind: ImageKind::Image,
            created: None,
            size: 49_999,
            platforms: Vec::new(),
            ..image.clone()
        };
        [image, untagged]
    }

    #[test]
    fn short_table_has_the_columns_of_scripts() {
        assert_eq!(
            table(&images(), TableColumns::Short, true, true),
            "IMAGE                    TAG/DIGEST TYPE  CREATED              PULLED               SIZE(MB)\n\
             docker.io/library/alpine 3.20       list  2024-02-29T12:34:56Z 2024-02-29T13:34:56Z 3.6\n\
             r.example/a              ababababab image -                    2024-02-29T13:34:56Z 0.0\n"
        );
        assert!(table(&images(), TableColumns::Short, false, false).contains(&"ab".repeat(32)));
        assert_eq!(table(&[], TableColumns::Short, false, false), "");
    }

    #[test]
    fn wide_table_adds_digests_and_missing_content() {
        let text = table(&images(), TableColumns::Wide, true, true);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0][6..], ["DIGEST", "BLOBS", "MISSING", "PLATFORMS"]);
        assert_eq!(lines[1][6..], ["ababababab", "2", "7", "linux/amd64,linux/arm64"]);
        assert_eq!(lines[2][6..], ["ababababab", "2", "7", "-"]);
    }
}
