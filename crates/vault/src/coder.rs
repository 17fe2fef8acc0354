//! Reading and writing of the vault's own formats: little endian, fixed sizes, every length checked before it is used.

use crate::object::VaultError;

/// Reads fields one after the other from bytes that may be anything.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// What is read, for the error.
    what: &'a str,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8], what: &'a str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn bad(&self, why: &str) -> VaultError {
        VaultError::damaged(self.what, why)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], VaultError> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| self.bad("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], VaultError> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("invariant: as many bytes as asked for"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, VaultError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, VaultError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, VaultError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, VaultError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count whose items of `item_size` bytes must all be there: nothing is reserved for what is not.
    pub(crate) fn count(&mut self, item_size: usize) -> Result<usize, VaultError> {
        let count = self.u32()? as usize;
        if count.checked_mul(item_size).is_none_or(|bytes| bytes > self.rest.len()) {
            return Err(self.bad("it announces more than it holds"));
        }
        Ok(count)
    }

    /// Two bytes of length, then UTF-8.
    pub(crate) fn text(&mut self) -> Result<String, VaultError> {
        let length = usize::from(self.u16()?);
        let bytes = self.bytes(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.bad("a name in it is not UTF-8"))
    }

    pub(crate) fn blob(&mut self) -> Result<Vec<u8>, VaultError> {
        let length = self.count(1)?;
        Ok(self.bytes(length)?.to_vec())
    }

    /// `magic` (8 bytes) and a version (2 bytes) that must be known.
    pub(crate) fn opening(&mut self, magic: &[u8; 8], known: u16) -> Result<u16, VaultError> {
        if self.bytes(8)? != magic {
            return Err(self.bad("it does not begin as such a thing does"));
        }
        let found = self.u16()?;
        if found == 0 || found > known {
            return Err(VaultError::Version { what: self.what.to_owned(), found, known });
        }
        Ok(found)
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn end(&self) -> Result<(), VaultError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("there is more than there should be")) }
    }
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("invariant: names are bounded");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("invariant: counts are bounded");
    out.extend_from_slice(&count.to_le_bytes());
}

/// Bytes of a [`check`].
pub(crate) const CHECK_SIZE: usize = 16;

/// What tells a damaged object from an intact one without any key: the first 16 bytes of BLAKE3.
pub(crate) fn check(bytes: &[u8]) -> [u8; CHECK_SIZE] {
    let hash = blake3::hash(bytes);
    hash.as_bytes()[..CHECK_SIZE].try_into().expect("invariant: a hash has 32 bytes")
}

/// Appends the check of everything so far.
pub(crate) fn close(out: &mut Vec<u8>) {
    let sum = check(out);
    out.extend_from_slice(&sum);
}

/// The bytes before the check, if it matches.
pub(crate) fn checked<'a>(bytes: &'a [u8], what: &str) -> Result<&'a [u8], VaultError> {
    let body = bytes.len().checked_sub(CHECK_SIZE).map(|at| bytes.split_at(at));
    match body {
        Some((body, sum)) if check(body) == *sum => Ok(body),
        _ => Err(VaultError::damaged(what, "its checksum does not match")),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}
