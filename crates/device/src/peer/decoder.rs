//! Cuts a link's plaintext into messages. Headers and bodies are small; a payload goes straight into the aligned buffer
//! in which it will be written to the disk.

use crate::buffer::{Buffer, Pool};
use anshin_mirror::wire::{HEADER_SIZE, Header, Message, WireError, decode_header};
use bytes::Bytes;

enum Stage {
    Header,
    Body(Header),
    Payload(Header, Buffer, usize),
}

/// See the module.
pub struct Decoder {
    stage: Stage,
    /// Header, then body.
    bytes: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { stage: Stage::Header, bytes: Vec::with_capacity(4096) }
    }
}

impl Decoder {
    /// Takes all of `plain`, appending the messages that are whole now.
    ///
    /// # Errors
    /// [`WireError`]; the link must be closed.
    pub fn take(&mut self, pool: &Pool, mut plain: &[u8], out: &mut Vec<Message>) -> Result<(), WireError> {
        loop {
            let wanted = match &mut self.stage {
                Stage::Header => HEADER_SIZE,
                Stage::Body(header) => header.body_len(),
                Stage::Payload(_, buffer, at) => {
                    let part = plain.len().min(buffer.len() - *at);
                    buffer[*at..*at + part].copy_from_slice(&plain[..part]);
                    *at += part;
                    plain = &plain[part..];
                    if *at < buffer.len() {
                        return Ok(());
                    }
                    let whole = std::mem::replace(&mut self.stage, Stage::Header);
                    if let Stage::Payload(header, buffer, _) = whole {
                        out.push(Message::from_parts(header, &self.bytes, buffer.freeze())?);
                    }
                    self.bytes.clear();
                    continue;
                }
            };
            let part = plain.len().min(wanted - self.bytes.len());
            self.bytes.extend_from_slice(&plain[..part]);
            plain = &plain[part..];
            if self.bytes.len() < wanted {
                return Ok(());
            }
            match self.stage {
                Stage::Header => {
                    self.stage = Stage::Body(decode_header(&self.bytes)?);
                    self.bytes.clear();
                }
                Stage::Body(header) if header.payload_len() > 0 => {
                    self.stage = Stage::Payload(header, pool.take(header.payload_len()), 0);
                }
                Stage::Body(header) => {
                    out.push(Message::from_parts(header, &self.bytes, Bytes::new())?);
                    self.stage = Stage::Header;
                    self.bytes.clear();
                }
                Stage::Payload(..) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_mirror::wire::Points;
    use proptest::prelude::*;

    fn encode(message: &Message) -> Vec<u8> {
        let mut out = message.encode_header().to_vec();
        out.extend_from_slice(message.payload().map_or(&[][..], |payload| payload));
        out
    }

    proptest! {
        #[test]
        fn messages_arrive_whole_however_the_stream_is_cut(sizes in prop::collection::vec(1usize..20_000, 1..5), cut in 1usize..5000) {
            let pool = Pool::default();
            let mut sent = vec![Message::Reconciled];
            for (seq, size) in sizes.iter().enumerate() {
                let (seq, data) = (seq as u64, Bytes::from(vec![seq as u8; size.next_multiple_of(512)]));
                sent.push(Message::Write { seq, points: Points::default(), offset: 4096 * seq, data });
                sent.push(Message::Differ { id: seq, mask: 5 });
            }
            let stream: Vec<u8> = sent.iter().flat_map(encode).collect();
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for part in stream.chunks(cut) {
                decoder.take(&pool, part, &mut got).unwrap();
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Decoder::default().take(&Pool::default(), &bytes, &mut Vec::new());
        }
    }
}
