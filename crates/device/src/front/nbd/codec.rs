//! The NBD protocol's words, after its public specification (doc/proto.md of the NetworkBlockDevice project).
//! Everything is big endian.

use bytes::{BufMut, Bytes, BytesMut};

/// First word of the greeting.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of every answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

/// Bytes of a request header.
pub const REQUEST_SIZE: usize = 28;
/// The longest read or write that is accepted, and announced.
pub const LENGTH_MAX: u32 = 32 << 20;

/// Handshake flags, both sides: fixed newstyle, no zeroes.
pub const FIXED_NEWSTYLE: u16 = 1;
/// See above.
pub const NO_ZEROES: u16 = 2;

/// HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN: the core orders all connections' requests
/// alike, so a flush on one covers what was answered on all.
pub const TRANSMISSION_FLAGS: u16 = 1 | 4 | 8 | 32 | 64 | 256;
/// HAS_FLAGS, READ_ONLY, CAN_MULTI_CONN: a point.
pub const READ_ONLY_FLAGS: u16 = 1 | 2 | 256;

/// Options that a client may send.
pub mod option {
    #![allow(missing_docs, reason = "names of the specification")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
}

/// Types of answers to options.
pub mod reply {
    #![allow(missing_docs, reason = "names of the specification")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Error numbers of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// The export is read-only.
    ReadOnly = 1,
    /// Input/output error.
    Io = 5,
    /// Invalid request.
    Invalid = 22,
    /// Beyond the end.
    NoSpace = 28,
    /// Not supported.
    NotSupported = 95,
    /// The server is going away: here, this node is not the primary any more.
    Shutdown = 108,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read.
    Read,
    /// Write; the payload follows the header.
    Write,
    /// Disconnect; not answered.
    Disconnect,
    /// Flush.
    Flush,
    /// Trim.
    Trim,
    /// Write zeroes.
    WriteZeroes,
    /// Anything else; answered with an error.
    Other(u16),
}

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub command: Command,
    /// Force unit access.
    pub fua: bool,
    /// Do not make holes.
    pub no_hole: bool,
    /// Any flag beyond those two.
    pub other_flags: bool,
    /// Repeated in the answer.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// How many.
    pub length: u32,
}

/// The client does not speak the protocol; the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NbdError {
    /// A magic number is wrong.
    #[error("bytes that are not NBD")]
    Magic,
    /// Client flags that were not offered.
    #[error("unknown client flags {0:#x}")]
    Flags(u32),
    /// Too many options or too much data in one.
    #[error("a handshake longer than allowed")]
    Handshake,
    /// EXPORT_NAME cannot be refused otherwise.
    #[error("an export that is not offered here")]
    Export,
    /// A write longer than announced; its payload is not read.
    #[error("a write of {0} bytes, at most {LENGTH_MAX} are allowed")]
    Length(u32),
}

/// Reads big-endian words out of a slice that was checked to be long enough.
pub(super) fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl Request {
    /// The request in `bytes`; None if they are fewer than [`REQUEST_SIZE`].
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, NbdError> {
        if bytes.len() < REQUEST_SIZE {
            return Ok(None);
        }
        let (Some(magic), Some(flags), Some(kind), Some(cookie), Some(offset), Some(length)) = (
            word(bytes, 0),
            word(bytes, 4),
            word(bytes, 6),
            word(bytes, 8),
            word(bytes, 16),
            word(bytes, 24),
        ) else {
            return Ok(None);
        };
        if u32::from_be_bytes(magic) != REQUEST_MAGIC {
            return Err(NbdError::Magic);
        }
        let flags = u16::from_be_bytes(flags);
        let command = match u16::from_be_bytes(kind) {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            6 => Command::WriteZeroes,
            other => Command::Other(other),
        };
        let request = Self {
            command,
            fua: flags & 1 != 0,
            no_hole: flags & 2 != 0,
            other_flags: flags & !3 != 0,
            cookie: u64::from_be_bytes(cookie),
            offset: u64::from_be_bytes(offset),
            length: u32::from_be_bytes(length),
        };
        if command == Command::Write && request.length > LENGTH_MAX {
            return Err(NbdError::Length(request.length));
        }
        Ok(Some(request))
    }
}

/// Header of a simple reply; a read's data follows it.
#[must_use]
pub fn simple(cookie: u64, error: Option<Errno>) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    out.put_u32(SIMPLE_MAGIC);
    out.put_u32(error.map_or(0, |error| error as u32));
    out.put_u64(cookie);
    out.freeze()
}

fn chunk(cookie: u64, done: bool, kind: u16, length: u32) -> BytesMut {
    let mut out = BytesMut::with_capacity(32);
    out.put_u32(STRUCTURED_MAGIC);
    out.put_u16(u16::from(done));
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(length);
    out
}

/// Header of a chunk with `length` bytes of data from `offset`, which follow it.
#[must_use]
pub fn chunk_data(cookie: u64, done: bool, offset: u64, length: u32) -> Bytes {
    let mut out = chunk(cookie, done, 1, length + 8);
    out.put_u64(offset);
    out.freeze()
}

/// The last chunk of a reply without further data.
#[must_use]
pub fn chunk_end(cookie: u64, error: Option<Errno>) -> Bytes {
    match error {
        None => chunk(cookie, true, 0, 0).freeze(),
        Some(error) => {
            let mut out = chunk(cookie, true, 1 << 15 | 1, 6);
            out.put_u32(error as u32);
            out.put_u16(0);
            out.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_has_the_bytes_of_the_specification() {
        let bytes = b"\x25\x60\x95\x13\0\x01\0\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\x10\0\0\0\x02\0";
        let request = Request::decode(bytes).unwrap().unwrap();
        assert_eq!(request.command, Command::Write);
        assert!(request.fua && !request.no_hole && !request.other_flags);
        assert_eq!((request.cookie, request.offset, request.length), (7, 4096, 512));
    }

    #[test]
    fn replies_have_the_bytes_of_the_specification() {
        assert_eq!(&simple(1, Some(Errno::Io))[..], b"\x67\x44\x66\x98\0\0\0\x05\0\0\0\0\0\0\0\x01");
        let data = b"\x66\x8e\x33\xef\0\x01\0\x01\0\0\0\0\0\0\0\x01\0\0\x02\x08\0\0\0\0\0\0\x02\0";
        assert_eq!(&chunk_data(1, true, 512, 512)[..], data);
        let error = b"\x66\x8e\x33\xef\0\x01\x80\x01\0\0\0\0\0\0\0\x01\0\0\0\x06\0\0\0\x16\0\0";
        assert_eq!(&chunk_end(1, Some(Errno::Invalid))[..], error);
    }

    proptest! {
        #[test]
        fn decoding_never_panics_and_bounds_a_writes_payload(mut bytes: Vec<u8>, magic: bool) {
            if magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
            }
            if let Ok(Some(request)) = Request::decode(&bytes) {
                prop_assert!(request.command != Command::Write || request.length <= LENGTH_MAX);
            }
        }
    }
}
