//! The newest bytes of a fill, in memory.

use std::collections::VecDeque;

use bytes::Bytes;

/// Consecutive chunks from `start` to `end`.
#[derive(Default)]
pub struct Window {
    /// Each chunk with the offset of its first byte.
    chunks: VecDeque<(u64, Bytes)>,
    end: u64,
}

impl Window {
    pub fn start(&self) -> u64 {
        self.chunks.front().map_or(self.end, |(offset, _)| *offset)
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns the number of bytes in the window. The allocator may hold more, because chunks are
    /// slices of read buffers.
    pub fn bytes(&self) -> u64 {
        self.end - self.start()
    }

    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            let offset = self.end;
            self.end += chunk.len() as u64;
            self.chunks.push_back((offset, chunk));
        }
    }

    pub fn holds(&self, offset: u64) -> bool {
        self.start() <= offset && offset < self.end
    }

    /// Returns bytes of a single chunk, starting at `offset`: at most `max`, and never past
    /// `limit`.
    ///
    /// # Panics
    ///
    /// If the window does not contain `offset`.
    pub fn read(&self, offset: u64, limit: u64, max: usize) -> Bytes {
        assert!(
            self.start() <= offset && offset < limit && limit <= self.end,
            "{offset}..{limit}"
        );
        let index = self.chunks.partition_point(|(start, _)| *start <= offset) - 1;
        let (start, chunk) = &self.chunks[index];
        // All offsets are inside the chunk, so the casts are lossless.
        let from = (offset - start) as usize;
        let to = chunk.len().min((limit - start) as usize).min(from + max);
        chunk.slice(from..to)
    }

    /// Returns the chunks from `offset` on. `offset` must be the start of a chunk, or the end.
    pub fn chunks_from(&self, offset: u64) -> Vec<Bytes> {
        let index = self.chunks.partition_point(|(start, _)| *start < offset);
        self.chunks
            .range(index..)
            .map(|(_, chunk)| chunk.clone())
            .collect()
    }

    /// Drops chunks that end at or before `limit`, while the window contains more than `keep`
    /// bytes.
    pub fn trim(&mut self, limit: u64, keep: u64) {
        while let Some((start, chunk)) = self.chunks.front() {
            if start + chunk.len() as u64 > limit || self.bytes() <= keep {
                return;
            }
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        let mut window = Window::default();
        for chunk in [&b"abc"[..], b"", b"defg", b"h"] {
            window.push(Bytes::from_static(chunk));
        }
        window
    }

    #[test]
    fn bytes_are_read_by_their_offset() {
        let window = window();
        assert_eq!((window.start(), window.end()), (0, 8));
        assert_eq!(&window.read(0, 8, 99)[..], b"abc");
        assert_eq!(&window.read(4, 8, 99)[..], b"efg");
        assert_eq!(&window.read(4, 6, 99)[..], b"ef");
        assert_eq!(&window.read(4, 8, 1)[..], b"e");
        assert_eq!(&window.read(7, 8, 9)[..], b"h");
        assert_eq!(window.chunks_from(3).concat(), b"defgh");
        assert!(window.chunks_from(8).is_empty());
    }

    #[test]
    fn only_whole_chunks_below_the_limit_are_dropped() {
        let mut window = window();
        window.trim(5, 0);
        assert_eq!((window.start(), window.bytes()), (3, 5));
        window.trim(8, 5);
        assert_eq!(window.start(), 3);
        window.trim(8, 0);
        assert_eq!((window.start(), window.end(), window.bytes()), (8, 8, 0));
    }
}
