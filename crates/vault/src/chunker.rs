//! Where contents are cut: content-defined cut points for files, so that an insertion moves no later cut.
//!
//! FastCDC (Xia et al., USENIX ATC 2016, with the two-bytes-per-step loop of their 2020 paper) with normalised chunking:
//! before the average size a cut needs 22 zero bits of the rolling hash, after it 18. The gear table is derived from the
//! key domain, so that equal contents of different domains are cut differently. The table is no security boundary:
//! it can be recovered from chunk sizes by who knows the content.
//!
//! The cut points are part of the format: changing anything here loses deduplication with everything stored before.

use std::io::{self, Read};

/// No chunk but the last is smaller.
pub const CHUNK_SIZE_MIN: usize = 256 << 10;
/// Around this size most chunks are cut.
pub const CHUNK_SIZE_AVERAGE: usize = 1 << 20;
/// No chunk is larger.
pub const CHUNK_SIZE_MAX: usize = 4 << 20;
/// Volumes and disk images are cut at multiples of this, where their file systems align what they write.
pub const EXTENT_SIZE: usize = 256 << 10;

/// 22 bits, below the highest so that the mask shifted by one fits as well.
const MASK_BEFORE: u64 = ((1 << 22) - 1) << 41;
/// 18 bits, the highest of the same ones.
const MASK_AFTER: u64 = ((1 << 18) - 1) << 45;

/// The cut points of one key domain.
pub struct Chunker {
    gear: [u64; 256],
    /// `gear` shifted left by one, for the first of two bytes taken in one step.
    shifted: [u64; 256],
}

impl Chunker {
    /// The cut points of the domain with this seed.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        let mut stream = blake3::Hasher::new_keyed(seed).update(b"gear").finalize_xof();
        let mut gear = [0; 256];
        for value in &mut gear {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            *value = u64::from_le_bytes(bytes);
        }
        Self { gear, shifted: gear.map(|value| value << 1) }
    }

    /// Length of the first chunk of `data`, which must begin where a chunk begins and be at least [`CHUNK_SIZE_MAX`] long or
    /// reach the end of the content. 0 only for no data.
    #[must_use]
    pub fn cut(&self, data: &[u8]) -> usize {
        if data.len() <= CHUNK_SIZE_MIN {
            return data.len();
        }
        let data = &data[..data.len().min(CHUNK_SIZE_MAX)];
        let center = CHUNK_SIZE_AVERAGE.min(data.len());
        let mut hash = 0;
        let before = self.scan(&mut hash, &data[CHUNK_SIZE_MIN..center], MASK_BEFORE);
        if let Some(at) = before {
            return CHUNK_SIZE_MIN + at;
        }
        self.scan(&mut hash, &data[center..], MASK_AFTER).map_or(data.len(), |at| center + at)
    }

    /// Rolls `hash` over `data`; the number of bytes up to and with the one at which all bits of `mask` are zero.
    fn scan(&self, hash: &mut u64, data: &[u8], mask: u64) -> Option<usize> {
        let mut h = *hash;
        let mut pairs = data.chunks_exact(2);
        for (pair, bytes) in pairs.by_ref().enumerate() {
            h = (h << 2).wrapping_add(self.shifted[usize::from(bytes[0])]);
            if h & (mask << 1) == 0 {
                return Some(2 * pair + 1);
            }
            h = h.wrapping_add(self.gear[usize::from(bytes[1])]);
            if h & mask == 0 {
                return Some(2 * pair + 2);
            }
        }
        if let [last] = pairs.remainder() {
            h = (h << 1).wrapping_add(self.gear[usize::from(*last)]);
            if h & mask == 0 {
                return Some(data.len());
            }
        }
        *hash = h;
        None
    }

    /// Cuts all that `reader` gives.
    pub fn chunks<R: Read>(&self, reader: R) -> Chunks<'_, R> {
        Chunks { chunker: self, reader, buffer: Vec::new(), start: 0, end: 0, ended: false }
    }
}

/// The chunks of a stream, one after the other, in one buffer of twice [`CHUNK_SIZE_MAX`].
pub struct Chunks<'a, R> {
    chunker: &'a Chunker,
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
}

impl<R: Read> Chunks<'_, R> {
    /// The next chunk, or None at the end.
    ///
    /// # Errors
    /// What the reader reports.
    pub fn next_chunk(&mut self) -> io::Result<Option<&[u8]>> {
        self.fill()?;
        let length = self.chunker.cut(&self.buffer[self.start..self.end]);
        if length == 0 {
            return Ok(None);
        }
        let chunk = &self.buffer[self.start..self.start + length];
        self.start += length;
        Ok(Some(chunk))
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.ended || self.end - self.start >= CHUNK_SIZE_MAX {
            return Ok(());
        }
        self.buffer.resize(2 * CHUNK_SIZE_MAX, 0);
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < self.buffer.len() {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that every build makes the same.
    fn noise(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn lengths(chunker: &Chunker, mut data: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !data.is_empty() {
            let length = chunker.cut(data);
            lengths.push(length);
            data = &data[length..];
        }
        lengths
    }

    /// The definition, byte by byte.
    fn cut_plainly(chunker: &Chunker, data: &[u8]) -> usize {
        let mut hash = 0u64;
        for (at, byte) in data.iter().enumerate().take(CHUNK_SIZE_MAX).skip(CHUNK_SIZE_MIN) {
            hash = (hash << 1).wrapping_add(chunker.gear[usize::from(*byte)]);
            let mask = if at < CHUNK_SIZE_AVERAGE { MASK_BEFORE } else { MASK_AFTER };
            if hash & mask == 0 {
                return at + 1;
            }
        }
        data.len().min(CHUNK_SIZE_MAX)
    }

    #[test]
    fn version_1_cuts_here() {
        let chunker = Chunker::new(&[1; 32]);
        assert_eq!(chunker.gear[0], GOLDEN_GEAR_0);
        assert_eq!(lengths(&chunker, &noise(1, 12 << 20)), GOLDEN_LENGTHS);
        assert_eq!(lengths(&chunker, &vec![0; 9 << 20]), [4 << 20, 4 << 20, 1 << 20]);
    }
    const GOLDEN_GEAR_0: u64 = 16_774_598_654_753_240_869;
    const GOLDEN_LENGTHS: [usize; 10] = [
        2_021_162, 927_717, 2_225_617, 1_055_268, 883_747, 1_207_302, 1_067_358, 1_632_691, 1_120_483,
        441_567,
    ];

    #[test]
    fn two_bytes_in_one_step_cut_as_one_byte_does() {
        for seed in 0..4 {
            let chunker = Chunker::new(&[seed; 32]);
            let data = noise(seed + 9, (6 << 20) + 1);
            for start in [0, 1, 77, 300_001] {
                assert_eq!(chunker.cut(&data[start..]), cut_plainly(&chunker, &data[start..]), "{start}");
            }
        }
    }

    #[test]
    fn sizes_keep_their_bounds_and_their_average() {
        let chunker = Chunker::new(&[3; 32]);
        let data = noise(5, 64 << 20);
        let lengths = lengths(&chunker, &data);
        let (_, whole) = lengths.split_last().unwrap();
        assert!(whole.iter().all(|length| (CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(length)));
        let average = data.len() / lengths.len();
        assert!((900 << 10..1400 << 10).contains(&average), "{average}");
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let chunker = Chunker::new(&[3; 32]);
        let data = noise(6, 32 << 20);
        let mut changed = data.clone();
        changed.splice((10 << 20)..(10 << 20), *b"inserted");
        let cuts = |data: &[u8]| {
            let mut at = 0;
            lengths(&chunker, data)
                .iter()
                .map(|l| {
                    at += l;
                    blake3::hash(&data[at - l..at])
                })
                .collect::<Vec<_>>()
        };
        let (before, after) = (cuts(&data), cuts(&changed));
        let new = after.iter().filter(|hash| !before.contains(hash)).count();
        assert!((1..=3).contains(&new), "{new} new chunks");
    }

    #[test]
    fn another_seed_cuts_elsewhere() {
        let data = noise(7, 8 << 20);
        assert_ne!(lengths(&Chunker::new(&[1; 32]), &data), lengths(&Chunker::new(&[2; 32]), &data));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn a_stream_is_cut_as_its_bytes_are(seed: u8, length in 0usize..(10 << 20), step in 1usize..(3 << 20)) {
            struct Steps<'a>(&'a [u8], usize);
            impl Read for Steps<'_> {
                fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                    let count = self.1.min(out.len()).min(self.0.len());
                    out[..count].copy_from_slice(&self.0[..count]);
                    self.0 = &self.0[count..];
                    Ok(count)
                }
            }
            let (chunker, data) = (Chunker::new(&[4; 32]), noise(seed, length));
            let mut chunks = chunker.chunks(Steps(&data, step));
            let (mut found, mut whole) = (Vec::new(), Vec::new());
            while let Some(chunk) = chunks.next_chunk().unwrap() {
                found.push(chunk.len());
                whole.extend_from_slice(chunk);
            }
            prop_assert_eq!(found, lengths(&chunker, &data));
            prop_assert!(whole == data);
        }
    }
}
