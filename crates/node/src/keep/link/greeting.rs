//! The first frame of either end.

use super::wire::{KIND, Malformed, Reader, VERSION, put_text};
use anshin_base::frame::Frame;
use anshin_vault::DomainId;

/// Longest text in a greeting.
const TEXT_LENGTH_MAX: usize = 1024;

/// The client's first frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    /// Oldest version that it speaks.
    pub version_min: u16,
    /// Newest one.
    pub version_max: u16,
    /// The key domain that it asks for.
    pub domain: DomainId,
    /// Names the session: random, known to the two ends alone.
    pub session: [u8; 16],
    /// What it calls the vault: its name in the site.
    pub vault: String,
    /// Its build, for the log.
    pub build: String,
}

/// The server's first frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Welcome {
    /// Come in.
    Served {
        /// The version that is spoken from now on.
        version: u16,
        /// Which vault this is.
        vault: [u8; 16],
        /// The session was there: what was promised to it still holds.
        resumed: bool,
        /// Whether other clients use the same key domain as strangers to this one.
        shared: bool,
        /// The name under which snapshots are sealed.
        client: String,
    },
    /// Stay out.
    Refused {
        /// Why.
        why: String,
    },
}

fn frame(body: Vec<u8>) -> Frame {
    // A greeting is of the first version whatever is spoken afterwards.
    Frame { kind: KIND, version: VERSION, body: body.into() }
}

fn known(frame: &Frame) -> Result<Reader<'_>, Malformed> {
    match (frame.kind, frame.version) {
        (KIND, VERSION) => Ok(Reader::new(&frame.body)),
        _ => Err(Malformed("another protocol")),
    }
}

impl Hello {
    pub(super) fn encode(&self) -> Frame {
        let mut out = Vec::new();
        out.extend_from_slice(&self.version_min.to_le_bytes());
        out.extend_from_slice(&self.version_max.to_le_bytes());
        out.extend_from_slice(&self.domain.0);
        out.extend_from_slice(&self.session);
        put_text(&mut out, &self.vault);
        put_text(&mut out, &self.build);
        frame(out)
    }

    /// What follows is of later versions and ignored.
    pub(super) fn decode(frame: &Frame) -> Result<Self, Malformed> {
        let mut reader = known(frame)?;
        Ok(Self {
            version_min: reader.u16()?,
            version_max: reader.u16()?,
            domain: DomainId(reader.array()?),
            session: reader.array()?,
            vault: reader.text(TEXT_LENGTH_MAX)?,
            build: reader.text(TEXT_LENGTH_MAX)?,
        })
    }
}

impl Welcome {
    pub(super) fn encode(&self) -> Frame {
        let mut out = Vec::new();
        match self {
            Self::Served { version, vault, resumed, shared, client } => {
                out.push(1);
                out.extend_from_slice(&version.to_le_bytes());
                out.extend_from_slice(vault);
                out.push(u8::from(*resumed));
                out.push(u8::from(*shared));
                put_text(&mut out, client);
            }
            Self::Refused { why } => {
                out.push(2);
                let end = (0..=why.len().min(TEXT_LENGTH_MAX)).rev().find(|end| why.is_char_boundary(*end));
                put_text(&mut out, &why[..end.unwrap_or(0)]);
            }
        }
        frame(out)
    }

    pub(super) fn decode(frame: &Frame) -> Result<Self, Malformed> {
        let mut reader = known(frame)?;
        Ok(match reader.u8()? {
            1 => Self::Served {
                version: reader.u16()?,
                vault: reader.array()?,
                resumed: reader.u8()? != 0,
                shared: reader.u8()? != 0,
                client: reader.text(TEXT_LENGTH_MAX)?,
            },
            2 => Self::Refused { why: reader.text(TEXT_LENGTH_MAX)? },
            _ => return Err(Malformed("a greeting that is not known")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            domain: DomainId([2; 16]),
            session: [3; 16],
            vault: "main".into(),
            build: "0.1.0".into(),
        }
    }

    #[test]
    fn version_1_has_these_bytes() {
        let mut expected = vec![1, 0, 1, 0];
        expected.extend_from_slice(&[2; 16]);
        expected.extend_from_slice(&[3; 16]);
        expected.extend_from_slice(b"\x04\0main\x05\x000.1.0");
        assert_eq!(hello().encode().body, expected);
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));

        let served =
            Welcome::Served { version: 1, vault: [4; 16], resumed: true, shared: false, client: "a".into() };
        let mut expected = vec![1, 1, 0];
        expected.extend_from_slice(&[4; 16]);
        expected.extend_from_slice(b"\x01\0\x01\0a");
        assert_eq!(served.encode().body, expected);
        assert_eq!(Welcome::decode(&served.encode()), Ok(served));
        let refused = Welcome::Refused { why: "no".into() };
        assert_eq!(&refused.encode().body[..], b"\x02\x02\0no");
        assert_eq!(Welcome::decode(&refused.encode()), Ok(refused));
    }

    proptest! {
        #[test]
        fn reading_a_greeting_never_panics(bytes: Vec<u8>, kind in prop_oneof![Just(KIND), any::<u16>()]) {
            let frame = Frame { kind, version: VERSION, body: bytes.into() };
            let _ = Hello::decode(&frame);
            let _ = Welcome::decode(&frame);
        }
    }
}
