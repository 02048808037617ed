//! Detects request loops by the `Via` field (RFC 9110, 7.6.3). Pure.

use crate::limits::VIA_MAX;

/// The longest forwarded chain in bytes: [`VIA_MAX`] names of a hundred bytes.
const CHAIN_BYTES_MAX: usize = 1_024;

/// The reason that a request is not forwarded. The operator chained the caches in a loop, or
/// chained too many caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Loop {
    #[error("request loop: the request has passed this cache before; check the `url` of each chained cache")]
    Again,
    #[error("request loop, or a chain of more than {VIA_MAX} caches; check the `url` of each chained cache")]
    TooLong,
}

/// Returns the caches that a request has passed, as a `Via` value to forward. `None` if the request
/// has passed no cache.
///
/// # Errors
///
/// [`Loop`], if a cache is `pseudonym`, or if there are too many caches.
pub fn chain<'a>(values: impl Iterator<Item = &'a [u8]>, pseudonym: &str) -> Result<Option<String>, Loop> {
    let mut chain = String::new();
    let mut count = 0;
    for member in values.flat_map(|value| value.split(|&byte| byte == b',')) {
        if member.trim_ascii().is_empty() {
            continue;
        }
        count += 1;
        if count > VIA_MAX {
            return Err(Loop::TooLong);
        }
        // Only protocol and name are forwarded, without comments.
        let mut words = member
            .split(|byte| byte.is_ascii_whitespace())
            .filter(|word| !word.is_empty());
        let (Some(protocol), Some(name)) = (text(words.next()), text(words.next())) else {
            continue;
        };
        if name.eq_ignore_ascii_case(pseudonym) {
            return Err(Loop::Again);
        }
        if !chain.is_empty() {
            chain.push_str(", ");
        }
        chain.push_str(protocol);
        chain.push(' ');
        chain.push_str(name);
    }
    if chain.len() > CHAIN_BYTES_MAX {
        return Err(Loop::TooLong);
    }
    Ok((!chain.is_empty()).then_some(chain))
}

fn text(word: Option<&[u8]>) -> Option<&str> {
    let word = word?;
    let visible = word.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(word).ok().filter(|_| visible)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Option<String>, Loop> {
        chain(values.iter().map(|value| value.as_bytes()), "me-1")
    }

    #[test]
    fn via_chain_is_forwarded_without_comments() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["", " , "]), Ok(None));
        assert_eq!(
            read(&["1.1 a (squid/5), HTTP/1.0  b:80", "1.1 me-10"]),
            Ok(Some("1.1 a, HTTP/1.0 b:80, 1.1 me-10".into()))
        );
        assert_eq!(read(&["1.1"]), Ok(None));
        assert_eq!(read(&["1.1 ä, 1.1 b"]), Ok(Some("1.1 b".into())));
    }

    #[test]
    fn loop_is_detected_at_any_position_of_the_via_chain() {
        for value in ["1.1 me-1", "1.0 a,1.1 ME-1 (us)", "1.1 a, 1.1\tme-1 , 1.1 b"] {
            assert_eq!(read(&[value]), Err(Loop::Again), "{value}");
        }
    }

    #[test]
    fn via_chain_beyond_the_limit_is_treated_as_a_loop() {
        let of = |count: usize| {
            (0..count)
                .map(|n| format!("1.1 c{n}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        assert!(read(&[&of(10)]).is_ok());
        assert_eq!(read(&[&of(11)]), Err(Loop::TooLong));
        assert_eq!(read(&[&of(6), &of(5)]), Err(Loop::TooLong));
        assert_eq!(read(&[&format!("1.1 {}", "x".repeat(2_000))]), Err(Loop::TooLong));
    }
}
