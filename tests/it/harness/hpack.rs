//! HPACK encoder and decoder (RFC 7541) for the test client, which inspects the exact bytes of
//! header blocks.

use super::Fields;

/// Code lengths of all symbols including EOS, in bits (RFC 7541, appendix B). The code is
/// canonical, so lengths and symbol order determine the codes.
#[rustfmt::skip]
const CODE_BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The static table (RFC 7541, appendix A).
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"), (":status", "200"),
    (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
    (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""),
    ("accept", ""), ("access-control-allow-origin", ""), ("age", ""), ("allow", ""),
    ("authorization", ""), ("cache-control", ""), ("content-disposition", ""),
    ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""),
    ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""),
    ("via", ""), ("www-authenticate", ""),
];

/// Encodes a field as a literal without table or Huffman code, the simplest representation.
pub fn literal(out: &mut Vec<u8>, name: &str, value: impl AsRef<[u8]>) {
    out.push(0);
    string(out, name.as_bytes());
    string(out, value.as_ref());
}

/// Encodes a string without Huffman code (5.2).
pub fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    integer(out, 0, 7, bytes.len());
    out.extend_from_slice(bytes);
}

/// Encodes an integer with a prefix pattern (5.1).
pub fn integer(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let max = (1 << bits) - 1;
    if value < max {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | max as u8);
    let mut rest = value - max;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Encodes a header block with all fields as literals.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        literal(&mut out, name, value);
    }
    out
}

/// Decoder state of one direction of a connection, with the default table size of 4,096 bytes.
pub struct Decoder {
    table: Vec<(String, Vec<u8>)>,
    max: usize,
    codes: Codes,
}

/// For each length the first code, and the symbols in code order.
struct Codes {
    symbols: Vec<u16>,
    /// By length: first code, first index in `symbols`, count.
    lengths: Vec<(u32, usize, usize)>,
}

impl Codes {
    fn new() -> Self {
        let mut symbols: Vec<u16> = (0..257).collect();
        symbols.sort_by_key(|&symbol| (CODE_BITS[symbol as usize], symbol));
        let mut lengths = vec![(0, 0, 0); 31];
        let (mut code, mut place) = (0, 0);
        for (length, place_of_length) in lengths.iter_mut().enumerate().skip(1) {
            code <<= 1;
            let count = CODE_BITS.iter().filter(|&&bits| bits as usize == length).count();
            *place_of_length = (code, place, count);
            code += count as u32;
            place += count;
        }
        Codes { symbols, lengths }
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let (mut code, mut length) = (0u32, 0usize);
        for bit in bytes
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        {
            code = code << 1 | u32::from(bit);
            length += 1;
            let &(first, place, count) = self.lengths.get(length).ok_or("an unknown Huffman code")?;
            if let Some(at) = code.checked_sub(first).filter(|&at| (at as usize) < count) {
                match self.symbols[place + at as usize] {
                    256 => return Err("the end-of-string symbol inside a string".into()),
                    symbol => out.push(symbol as u8),
                }
                (code, length) = (0, 0);
            }
        }
        if length > 7 || code != (1 << length) - 1 {
            return Err("padding that differs from the end-of-string code".into());
        }
        Ok(out)
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            table: Vec::new(),
            max: 4_096,
            codes: Codes::new(),
        }
    }
}

impl Decoder {
    /// Decodes the fields of a complete block.
    pub fn decode(&mut self, mut bytes: &[u8]) -> Result<Fields, String> {
        let mut fields = Fields::new();
        while let Some(&first) = bytes.first() {
            if first & 0x80 != 0 {
                let index = take_integer(&mut bytes, 7)?;
                fields.push(self.entry(index)?);
            } else if first & 0xe0 == 0x20 {
                self.max = take_integer(&mut bytes, 5)?;
                if self.max > 4_096 || !fields.is_empty() {
                    return Err("an invalid size update of the dynamic table".into());
                }
                self.evict();
            } else {
                let indexed = first & 0x40 != 0;
                let index = take_integer(&mut bytes, if indexed { 6 } else { 4 })?;
                let name = match index {
                    0 => {
                        String::from_utf8(self.take_string(&mut bytes)?).map_err(|error| error.to_string())?
                    }
                    index => self.entry(index)?.0,
                };
                let value = self.take_string(&mut bytes)?;
                if indexed {
                    self.table.insert(0, (name.clone(), value.clone()));
                    self.evict();
                }
                fields.push((name, value));
            }
        }
        Ok(fields)
    }

    fn entry(&self, index: usize) -> Result<(String, Vec<u8>), String> {
        if let Some((name, value)) = index.checked_sub(1).and_then(|at| STATIC.get(at)) {
            return Ok(((*name).into(), (*value).into()));
        }
        index
            .checked_sub(STATIC.len() + 1)
            .and_then(|at| self.table.get(at).cloned())
            .ok_or_else(|| format!("index {index} is in no table"))
    }

    fn evict(&mut self) {
        let size = |(name, value): &(String, Vec<u8>)| name.len() + value.len() + 32;
        while self.table.iter().map(size).sum::<usize>() > self.max {
            self.table.pop();
        }
    }

    fn take_string(&self, bytes: &mut &[u8]) -> Result<Vec<u8>, String> {
        let coded = bytes.first().ok_or("a missing string")? & 0x80 != 0;
        let length = take_integer(bytes, 7)?;
        if length > bytes.len() {
            return Err("a truncated string".into());
        }
        let (text, rest) = bytes.split_at(length);
        *bytes = rest;
        if coded {
            self.codes.decode(text)
        } else {
            Ok(text.into())
        }
    }
}

fn take_integer(bytes: &mut &[u8], bits: u32) -> Result<usize, String> {
    let mut next = || {
        let (&first, rest) = bytes.split_first().ok_or("a truncated integer")?;
        *bytes = rest;
        Ok::<usize, String>(first as usize)
    };
    let max = (1usize << bits) - 1;
    let mut value = next()? & max;
    if value < max {
        return Ok(value);
    }
    for shift in (0..28).step_by(7) {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("an integer without an end".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hpack_decoder_reads_the_examples_of_rfc_7541() {
        // RFC 7541, C.4.1 and C.4.2. The second block refers to table entries of the first.
        let first = [
            0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4,
            0xff,
        ];
        let second = [
            0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf,
        ];
        let mut decoder = Decoder::default();
        let authority = (":authority".to_owned(), b"www.example.com".to_vec());
        assert_eq!(decoder.decode(&first).unwrap()[3], authority);
        let fields = decoder.decode(&second).unwrap();
        assert_eq!(fields[3], authority);
        assert_eq!(fields[4], ("cache-control".to_owned(), b"no-cache".to_vec()));
    }

    #[test]
    fn hpack_integers_survive_a_round_trip() {
        for value in [0, 30, 31, 127, 128, 1337, 100_000] {
            for bits in [4, 5, 6, 7] {
                let mut out = Vec::new();
                integer(&mut out, 0, bits, value);
                assert_eq!(take_integer(&mut &out[..], bits).unwrap(), value);
            }
        }
    }
}
