//! The server's side of the fixed newstyle handshake, without I/O.

use super::codec::{
    FIXED_NEWSTYLE, LENGTH_MAX, MAGIC, NO_ZEROES, NbdError, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    READ_ONLY_FLAGS, TRANSMISSION_FLAGS, option, reply, word,
};
use crate::front::Geometry;
use bytes::{BufMut, BytesMut};

/// An export's name has at most 4,096 bytes; a GO adds a few words.
const OPTION_BYTES_MAX: usize = 8 << 10;
/// Real clients send about five.
const OPTIONS_MAX: u32 = 64;

/// Where the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    More,
    /// Requests follow.
    Transmission {
        /// Whether replies are structured.
        structured: bool,
    },
    /// The client is done with us.
    Close,
}

/// One client's handshake.
pub struct Handshake {
    geometry: Geometry,
    client: Option<u32>,
    structured: bool,
    options: u32,
}

impl Handshake {
    /// A new client; the greeting goes to `output`.
    #[must_use]
    pub fn new(geometry: Geometry, output: &mut BytesMut) -> Self {
        output.put_u64(MAGIC);
        output.put_u64(OPTION_MAGIC);
        output.put_u16(FIXED_NEWSTYLE | NO_ZEROES);
        Self { geometry, client: None, structured: false, options: 0 }
    }

    /// Takes what it can from the front of `input`, says how many bytes it took, and puts answers into `output`.
    ///
    /// # Errors
    /// [`NbdError`]; the connection must be closed, after sending `output`.
    pub fn advance(&mut self, input: &[u8], output: &mut BytesMut) -> Result<(usize, Step), NbdError> {
        let mut taken = 0;
        if self.client.is_none() {
            let Some(flags) = word(input, 0) else { return Ok((0, Step::More)) };
            let flags = u32::from_be_bytes(flags);
            if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 || flags & u32::from(FIXED_NEWSTYLE) == 0 {
                return Err(NbdError::Flags(flags));
            }
            self.client = Some(flags);
            taken = 4;
        }
        loop {
            let rest = &input[taken..];
            let (Some(magic), Some(code), Some(length)) = (word(rest, 0), word(rest, 8), word(rest, 12))
            else {
                return Ok((taken, Step::More));
            };
            if u64::from_be_bytes(magic) != OPTION_MAGIC {
                return Err(NbdError::Magic);
            }
            let (code, length) = (u32::from_be_bytes(code), u32::from_be_bytes(length) as usize);
            if length > OPTION_BYTES_MAX || self.options >= OPTIONS_MAX {
                return Err(NbdError::Handshake);
            }
            let Some(data) = rest.get(16..16 + length) else { return Ok((taken, Step::More)) };
            self.options += 1;
            taken += 16 + length;
            let step = self.option(code, data, output)?;
            if step != Step::More {
                return Ok((taken, step));
            }
        }
    }

    fn option(&mut self, code: u32, data: &[u8], output: &mut BytesMut) -> Result<Step, NbdError> {
        let transmission = Step::Transmission { structured: self.structured };
        match code {
            option::EXPORT_NAME => {
                if !self.offers(data) {
                    return Err(NbdError::Export);
                }
                output.put_u64(self.geometry.bytes);
                output.put_u16(self.flags());
                if self.client.is_some_and(|flags| flags & u32::from(NO_ZEROES) == 0) {
                    output.put_bytes(0, 124);
                }
                return Ok(transmission);
            }
            option::ABORT => {
                answer(output, code, reply::ACK, &[]);
                return Ok(Step::Close);
            }
            option::LIST if data.is_empty() => {
                let mut body = BytesMut::new();
                body.put_u32(u32::try_from(self.geometry.name.len()).unwrap_or(0));
                body.put_slice(self.geometry.name.as_bytes());
                answer(output, code, reply::SERVER, &body);
                answer(output, code, reply::ACK, &[]);
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                answer(output, code, reply::ACK, &[]);
            }
            option::LIST | option::STRUCTURED_REPLY => answer(output, code, reply::ERR_INVALID, &[]),
            option::INFO | option::GO => match requested_name(data) {
                None => answer(output, code, reply::ERR_INVALID, &[]),
                Some(name) if !self.offers(name) => {
                    answer(output, code, reply::ERR_UNKNOWN, b"no such volume")
                }
                Some(_) => {
                    self.inform(output, code);
                    if code == option::GO {
                        return Ok(transmission);
                    }
                }
            },
            _ => answer(output, code, reply::ERR_UNSUP, &[]),
        }
        Ok(Step::More)
    }

    fn flags(&self) -> u16 {
        if self.geometry.read_only { READ_ONLY_FLAGS } else { TRANSMISSION_FLAGS }
    }

    /// The empty name is the default export.
    fn offers(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.geometry.name.as_bytes()
    }

    fn inform(&self, output: &mut BytesMut, code: u32) {
        let mut export = BytesMut::new();
        export.put_u16(0);
        export.put_u64(self.geometry.bytes);
        export.put_u16(self.flags());
        answer(output, code, reply::INFO, &export);
        let mut sizes = BytesMut::new();
        sizes.put_u16(3);
        sizes.put_u32(self.geometry.block_bytes);
        sizes.put_u32(self.geometry.block_bytes.max(4096));
        sizes.put_u32(LENGTH_MAX);
        answer(output, code, reply::INFO, &sizes);
        answer(output, code, reply::ACK, &[]);
    }
}

/// The export's name in the data of INFO and GO: its length, the name, a count of wished infos, the wishes. Everything we have
/// is sent, wished or not, which the specification allows.
fn requested_name(data: &[u8]) -> Option<&[u8]> {
    let length = u32::from_be_bytes(word(data, 0)?) as usize;
    let name = data.get(4..4usize.checked_add(length)?)?;
    let wishes = usize::from(u16::from_be_bytes(word(data, 4 + length)?));
    (data.len() == 6 + length + 2 * wishes).then_some(name)
}

fn answer(output: &mut BytesMut, code: u32, kind: u32, data: &[u8]) {
    output.put_u64(OPTION_REPLY_MAGIC);
    output.put_u32(code);
    output.put_u32(kind);
    output.put_u32(u32::try_from(data.len()).unwrap_or(0));
    output.put_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometry() -> Geometry {
        Geometry { name: "data".into(), bytes: 1 << 30, block_bytes: 512, read_only: false }
    }

    fn option_bytes(code: u32, data: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_u64(OPTION_MAGIC);
        out.put_u32(code);
        out.put_u32(data.len() as u32);
        out.put_slice(data);
        out
    }

    fn talk(parts: &[BytesMut]) -> (BytesMut, Result<(usize, Step), NbdError>) {
        let mut greeting = BytesMut::new();
        let mut handshake = Handshake::new(geometry(), &mut greeting);
        assert_eq!(greeting.len(), 18);
        let mut input = BytesMut::from(&[0, 0, 0, 3][..]);
        parts.iter().for_each(|part| input.extend_from_slice(part));
        let mut output = BytesMut::new();
        let result = handshake.advance(&input, &mut output);
        (output, result)
    }

    fn kinds(mut output: &[u8]) -> Vec<u32> {
        let mut kinds = Vec::new();
        while !output.is_empty() {
            assert_eq!(u64::from_be_bytes(word(output, 0).unwrap()), OPTION_REPLY_MAGIC);
            kinds.push(u32::from_be_bytes(word(output, 12).unwrap()));
            let length = u32::from_be_bytes(word(output, 16).unwrap()) as usize;
            output = &output[20 + length..];
        }
        kinds
    }

    #[test]
    fn go_after_structured_reply_leads_to_transmission_with_structured_replies() {
        let parts = [
            option_bytes(option::STRUCTURED_REPLY, &[]),
            option_bytes(option::GO, b"\0\0\0\x04data\0\x01\0\x03"),
        ];
        let (output, result) = talk(&parts);
        assert_eq!(kinds(&output), [reply::ACK, reply::INFO, reply::INFO, reply::ACK]);
        assert_eq!(result.unwrap().1, Step::Transmission { structured: true });
    }

    #[test]
    fn an_unknown_export_is_refused_and_the_client_may_go_on() {
        let parts = [
            option_bytes(option::GO, b"\0\0\0\x05other\0\0"),
            option_bytes(99, b"?"),
            option_bytes(option::LIST, &[]),
            option_bytes(option::ABORT, &[]),
        ];
        let (output, result) = talk(&parts);
        let expected = [reply::ERR_UNKNOWN, reply::ERR_UNSUP, reply::SERVER, reply::ACK, reply::ACK];
        assert_eq!(kinds(&output), expected);
        assert_eq!(result.unwrap().1, Step::Close);
    }

    #[test]
    fn export_name_without_zeroes_has_ten_bytes() {
        let (output, result) = talk(&[option_bytes(option::EXPORT_NAME, b"data")]);
        assert_eq!(output.len(), 10);
        assert_eq!(result.unwrap().1, Step::Transmission { structured: false });
    }

    #[test]
    fn a_handshake_is_bounded() {
        let (_, result) = talk(&[option_bytes(99, &vec![0; OPTION_BYTES_MAX + 1])]);
        assert_eq!(result, Err(NbdError::Handshake));
        let many: Vec<_> = (0..=OPTIONS_MAX).map(|_| option_bytes(99, &[])).collect();
        assert_eq!(talk(&many).1, Err(NbdError::Handshake));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(input: Vec<u8>, code in 0u32..12, data: Vec<u8>) {
            let mut output = BytesMut::new();
            let _ = Handshake::new(geometry(), &mut output).advance(&input, &mut output);
            let _ = talk(&[option_bytes(code, &data)]);
        }

        #[test]
        fn split_input_gives_the_same_answers(cut in 0usize..60) {
            let parts = [option_bytes(option::LIST, &[]), option_bytes(option::GO, b"\0\0\0\x04data\0\0")];
            let whole = talk(&parts).0;
            let mut input = BytesMut::from(&[0, 0, 0, 3][..]);
            parts.iter().for_each(|part| input.extend_from_slice(part));
            let mut output = BytesMut::new();
            let mut handshake = Handshake::new(geometry(), &mut output);
            output.clear();
            let cut = cut.min(input.len());
            let (taken, _) = handshake.advance(&input[..cut], &mut output).unwrap();
            handshake.advance(&input[taken..], &mut output).unwrap();
            prop_assert_eq!(output, whole);
        }
    }
}
