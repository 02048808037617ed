//! The table of images, one line per image.

use std::fmt::Write as _;

use super::{Image, ImageKind};
use crate::local_time::local_date_time;

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

/// The form of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableStyle {
    pub columns: TableColumns,
    /// Whether the first line has the names of the columns.
    pub header: bool,
    /// Whether digests are cut to 10 digits.
    pub short_digests: bool,
    /// Whether cells are padded. Otherwise a single space separates them, as in ociregistry.
    pub is_aligned: bool,
}

/// Returns the table of `images`, with times in the zone of this machine.
pub fn table(images: &[Image], style: TableStyle) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    if style.header {
        let wide = WIDE.iter().filter(|_| style.columns == TableColumns::Wide);
        rows.push(SHORT.iter().chain(wide).map(|&name| name.to_owned()).collect());
    }
    let rows_of_images = images.iter().map(|image| row(image, style, &local_date_time));
    rows.extend(rows_of_images);
    match style.is_aligned {
        true => aligned(&rows),
        false => rows.iter().map(|row| row.join(" ") + "\n").collect(),
    }
}

fn row(image: &Image, style: TableStyle, time: &dyn Fn(u64) -> String) -> Vec<String> {
    let is_wide = style.columns == TableColumns::Wide;
    let digest = if style.short_digests {
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
        image.tag.clone().unwrap_or_else(|| {
            // The algorithm is given for other digests only, as in ociregistry.
            digest.strip_prefix("sha256:").unwrap_or(&digest).to_owned()
        }),
        kind.to_owned(),
        image.created.map_or_else(|| "-".to_owned(), time),
        time(image.used),
        match image.kind {
            ImageKind::List if !is_wide => "n/a".to_owned(),
            _ => format!("{:.1}", image.size as f64 / 1e6),
        },
    ];
    if is_wide {
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
/// Returns rows of equal length as lines with aligned columns.
pub fn aligned(rows: &[Vec<String>]) -> String {
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

    fn style(columns: TableColumns) -> TableStyle {
        TableStyle {
            columns,
            header: true,
            short_digests: true,
            is_aligned: false,
        }
    }

    #[test]
    fn short_table_has_the_bytes_of_ociregistry() {
        let [list, untagged] = images();
        let image = Image {
            repository: "docker.io/library/alpine".to_owned(),
            tag: Some("3.20".to_owned()),
            size: 3_649_999,
            ..untagged.clone()
        };
        let style = style(TableColumns::Short);
        let time = |seconds: u64| String::from_utf8_lossy(&crate::calendar::date_time(seconds)).into_owned();
        let line = |image: &Image, style| row(image, style, &time).join(" ");
        assert_eq!(
            line(&list, style),
            "docker.io/library/alpine 3.20 list 2024-02-29T12:34:56 2024-02-29T13:34:56 n/a"
        );
        assert_eq!(
            line(&image, style),
            "docker.io/library/alpine 3.20 image - 2024-02-29T13:34:56 3.6"
        );
        assert_eq!(
            line(&untagged, style),
            "r.example/a ababababab image - 2024-02-29T13:34:56 0.0"
        );
        let long = TableStyle {
            short_digests: false,
            ..style
        };
        let digest = "ab".repeat(32);
        assert_eq!(
            line(&untagged, long),
            format!("r.example/a {digest} image - 2024-02-29T13:34:56 0.0")
        );
        let header = "IMAGE TAG/DIGEST TYPE CREATED PULLED SIZE(MB)\n";
        assert_eq!(table(&[], style), header);
        let no_header = TableStyle {
            header: false,
            ..style
        };
        assert_eq!(table(&[], no_header), "");
    }

    #[test]
    fn aligned_table_pads_its_cells() {
        let text = table(
            &images(),
            TableStyle {
                is_aligned: true,
                ..style(TableColumns::Short)
            },
        );
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("IMAGE                    TAG/DIGEST TYPE  CREATED "),
            "{text}"
        );
        assert!(
            lines[1].starts_with("docker.io/library/alpine 3.20       list  "),
            "{text}"
        );
        assert!(
            lines[2].starts_with("r.example/a              ababababab image - "),
            "{text}"
        );
    }

    #[test]
    fn wide_table_adds_digests_and_missing_content() {
        let text = table(&images(), style(TableColumns::Wide));
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0][6..], ["DIGEST", "BLOBS", "MISSING", "PLATFORMS"]);
        assert_eq!(
            lines[1][5..],
            ["3.6", "ababababab", "2", "7", "linux/amd64,linux/arm64"]
        );
        assert_eq!(lines[2][6..], ["ababababab", "2", "7", "-"]);
    }
}
