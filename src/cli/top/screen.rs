//! The terminal of `top`: the alternate screen without a cursor.

use std::io::{self, Write as _};

use rustix::termios::tcgetwinsize;

use super::lines::Size;

/// Switches to the alternate screen, and hides the cursor.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";

/// Shows the cursor, and returns to the screen before [`OPEN`].
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";

/// The size of a terminal that reports none.
const SIZE_DEFAULT: Size = Size {
    columns: 80,
    rows: 24,
};

/// The drop restores the terminal.
pub(super) struct Screen(());

impl Screen {
    pub fn open() -> io::Result<Self> {
        write(OPEN)?;
        Ok(Screen(()))
    }

    pub fn size(&self) -> Size {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Size {
                columns: size.ws_col.into(),
                rows: size.ws_row.into(),
            },
            _ => SIZE_DEFAULT,
        }
    }

    /// Replaces the content. The caller limits the lines to [`Screen::size`].
    ///
    /// # Errors
    ///
    /// The terminal is closed.
    pub fn show(&self, lines: &[String]) -> io::Result<()> {
        write(&drawn(lines))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A closed terminal needs no restoration.
        let _ = write(CLOSE);
    }
}

/// Returns the text that replaces the content of the screen, without a line feed after the last line, which
/// would scroll.
fn drawn(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\x1b[K")).collect();
    format!("\x1b[H{}\x1b[J", lines.join("\r\n"))
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_replace_the_whole_screen_without_a_scroll() {
        let text = drawn(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(text, "\x1b[Ha\x1b[K\r\nb\x1b[K\x1b[J");
    }
}
