//! Frames: how every message on every link and local socket is cut out of a byte stream.
//!
//! ```text
//! offset size
//!      0    4  magic "anf1" (the version of the frame itself)
//!      4    2  kind: which protocol the body belongs to (little endian)
//!      6    2  version of that protocol
//!      8    4  body length in bytes, at most the receiver's limit
//!     12    4  crc32c of the first 12 bytes and the body
//!     16    n  body
//! ```
//! The checksum covers what TLS does not: a bug or bad memory between encoder and decoder.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes before the body.
pub const HEADER_SIZE: usize = 16;
const MAGIC: [u8; 4] = *b"anf1";

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which protocol.
    pub kind: u16,
    /// Which version of it.
    pub version: u16,
    /// The message.
    pub body: Bytes,
}

/// Why a byte stream cannot be read on. The link must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not an anshin peer, or the stream lost its place.
    #[error("bytes that are not an anshin frame")]
    Magic,
    /// Larger than the receiver allows.
    #[error("a frame of {length} bytes where at most {limit} are allowed")]
    TooLong {
        /// As announced.
        length: usize,
        /// As allowed.
        limit: usize,
    },
    /// The checksum does not match.
    #[error("a frame whose checksum does not match")]
    Checksum,
}

impl Frame {
    /// The whole frame's bytes.
    ///
    /// # Panics
    /// If the body is longer than `u32::MAX`; bodies are bounded far below that by their makers.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(HEADER_SIZE + self.body.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        let length = u32::try_from(self.body.len()).expect("invariant: bodies are bounded");
        out.extend_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &self.body);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&self.body);
        out
    }

    /// Takes the first whole frame out of `buffer`; None if more bytes are needed. Never reserves memory for a
    /// body before its bytes have arrived.
    ///
    /// # Errors
    /// [`FrameError`]; the buffer must not be read on.
    pub fn decode(buffer: &mut BytesMut, limit: usize) -> Result<Option<Self>, FrameError> {
        let known = buffer.len().min(MAGIC.len());
        if buffer[..known] != MAGIC[..known] {
            return Err(FrameError::Magic);
        }
        if buffer.len() < HEADER_SIZE {
            return Ok(None);
        }
        let u16_at = |at: usize| u16::from_le_bytes([buffer[at], buffer[at + 1]]);
        let u32_at =
            |at: usize| u32::from_le_bytes([buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]]);
        let (kind, version, length, crc) = (u16_at(4), u16_at(6), u32_at(8) as usize, u32_at(12));
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        if buffer.len() < HEADER_SIZE + length {
            return Ok(None);
        }
        let mut frame = buffer.split_to(HEADER_SIZE + length);
        if crc32c::crc32c_append(crc32c::crc32c(&frame[..12]), &frame[HEADER_SIZE..]) != crc {
            return Err(FrameError::Checksum);
        }
        frame.advance(HEADER_SIZE);
        Ok(Some(Self { kind, version, body: frame.freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn version_1_has_these_bytes() {
        let frame = Frame { kind: 2, version: 1, body: Bytes::from_static(b"hi") };
        assert_eq!(&frame.encode()[..], b"anf1\x02\0\x01\0\x02\0\0\0\x4a\x82\x8d\x65hi".as_slice());
    }

    proptest! {
        #[test]
        fn decode_of_encode_is_the_frame_at_every_split(kind: u16, version: u16, body: Vec<u8>, split in 0usize..64) {
            let frame = Frame { kind, version, body: body.into() };
            let whole = frame.encode();
            let split = split.min(whole.len());
            let mut buffer = BytesMut::from(&whole[..split]);
            if split < whole.len() {
                prop_assert_eq!(Frame::decode(&mut buffer, 1 << 20), Ok(None));
            }
            buffer.extend_from_slice(&whole[split..]);
            prop_assert_eq!(Frame::decode(&mut buffer, 1 << 20), Ok(Some(frame)));
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn decode_never_panics(bytes: Vec<u8>, limit in 0usize..100) {
            let _ = Frame::decode(&mut BytesMut::from(&bytes[..]), limit);
            let mut framed = BytesMut::from(&MAGIC[..]);
            framed.extend_from_slice(&bytes);
            let _ = Frame::decode(&mut framed, limit);
        }

        #[test]
        fn a_changed_byte_is_never_taken_for_a_frame(body: Vec<u8>, at: usize, flip in 1u8..) {
            let mut bytes = Frame { kind: 1, version: 1, body: body.into() }.encode();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(!matches!(Frame::decode(&mut bytes, 1 << 20), Ok(Some(_))));
        }
    }
}
