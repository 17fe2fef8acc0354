//! The bytes of which tree objects are made: minimal varints, zigzag numbers, counted byte strings.
//!
//! There is exactly one encoding of every value, and the decoder refuses any other, so that equal trees have equal ids.

use super::TreeError;

/// Appends to an encoding.
#[derive(Default, Debug, Clone)]
pub(crate) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    /// LEB128, least significant group first.
    pub fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Zigzag: small numbers of either sign are short.
    pub fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)) as u64);
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.number(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Reads an encoding; never beyond its end and never allocating more than what is left of it.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn byte(&mut self) -> Result<u8, TreeError> {
        let (first, rest) = self.rest.split_first().ok_or(TreeError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    pub fn number(&mut self) -> Result<u64, TreeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let group = u64::from(byte & 0x7f);
            if shift == 63 && group > 1 {
                return Err(TreeError::NotCanonical);
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(TreeError::NotCanonical) } else { Ok(value) };
            }
        }
        Err(TreeError::NotCanonical)
    }

    /// A number that must fit 32 bits.
    pub fn number32(&mut self) -> Result<u32, TreeError> {
        u32::try_from(self.number()?).map_err(|_| TreeError::OutOfRange)
    }

    pub fn signed(&mut self) -> Result<i64, TreeError> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], TreeError> {
        if length > self.rest.len() {
            return Err(TreeError::Truncated);
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    /// A counted byte string of at most `limit` bytes.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8], TreeError> {
        let length = usize::try_from(self.number()?).map_err(|_| TreeError::OutOfRange)?;
        if length > limit {
            return Err(TreeError::OutOfRange);
        }
        self.take(length)
    }

    /// A count of things that take at least `least` bytes each, so that it can be allocated for.
    pub fn count(&mut self, least: usize) -> Result<usize, TreeError> {
        let count = usize::try_from(self.number()?).map_err(|_| TreeError::OutOfRange)?;
        if count > self.rest.len() / least {
            return Err(TreeError::Truncated);
        }
        Ok(count)
    }

    pub fn end(&self) -> Result<(), TreeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(TreeError::Trailing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_shortest_form_of_a_number_is_read() {
        assert!(Reader::new(&[0x80, 0x00]).number().is_err(), "a padded zero");
        assert!(Reader::new(&[0xff; 10]).number().is_err(), "more than 64 bits");
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).number(),
            Ok(u64::MAX)
        );
    }

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, signed: i64) {
            let mut writer = Writer::default();
            writer.number(value);
            writer.signed(signed);
            let mut reader = Reader::new(&writer.0);
            prop_assert_eq!(reader.number(), Ok(value));
            prop_assert_eq!(reader.signed(), Ok(signed));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }
}
