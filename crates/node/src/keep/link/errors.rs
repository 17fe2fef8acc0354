//! [`VaultError`] on the wire: a number for each kind, then its texts.

use super::wire::{Malformed, Reader, put_text};
use anshin_vault::{ChunkId, VaultError};

/// Longest text of an error that is sent or read.
const TEXT_LENGTH_MAX: usize = 4096;

/// Writes an error.
pub(super) fn put(out: &mut Vec<u8>, error: &VaultError) {
    let mut texts = |code: u8, texts: &[&str]| {
        out.push(code);
        for text in texts {
            put_text(out, clip(text));
        }
    };
    match error {
        VaultError::Missing(id) => {
            out.push(1);
            out.extend_from_slice(&id.0);
        }
        VaultError::Damaged { what, why } => texts(2, &[what, why]),
        VaultError::Denied(what) => texts(3, &[what]),
        VaultError::NotFound(what) => texts(4, &[what]),
        VaultError::Exists(what) => texts(5, &[what]),
        VaultError::Full(what) => texts(6, &[what]),
        VaultError::Store { what, why, transient: false } => texts(7, &[what, why]),
        VaultError::Store { what, why, transient: true } => texts(8, &[what, why]),
        VaultError::Key(what) => texts(9, &[what]),
        VaultError::Failed(what) => texts(10, &[what]),
        VaultError::Refused(what) => texts(11, &[what]),
        VaultError::Unfit(what) => texts(12, &[what]),
        // Their kinds matter to nobody across a link; their words do.
        VaultError::Version { .. } | VaultError::TooLarge { .. } => texts(11, &[&error.to_string()]),
    }
}

/// Reads an error.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<VaultError, Malformed> {
    let code = reader.u8()?;
    if code == 1 {
        return Ok(VaultError::Missing(ChunkId(reader.array()?)));
    }
    let first = reader.text(TEXT_LENGTH_MAX)?;
    Ok(match code {
        2 => VaultError::Damaged { what: first, why: reader.text(TEXT_LENGTH_MAX)? },
        3 => VaultError::Denied(first.into()),
        4 => VaultError::NotFound(first),
        5 => VaultError::Exists(first),
        6 => VaultError::Full(first),
        7 | 8 => VaultError::Store { what: first, why: reader.text(TEXT_LENGTH_MAX)?, transient: code == 8 },
        9 => VaultError::Key(first),
        10 => VaultError::Failed(first),
        11 => VaultError::Refused(first),
        12 => VaultError::Unfit(first),
        _ => return Err(Malformed("an error of unknown kind")),
    })
}

fn clip(text: &str) -> &str {
    let mut end = text.len().min(TEXT_LENGTH_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_arrives_as_what_it_was() {
        let text = || "what".to_owned();
        let all = [
            VaultError::Missing(ChunkId([7; 32])),
            VaultError::Damaged { what: text(), why: text() },
            VaultError::denied("read backups"),
            VaultError::NotFound(text()),
            VaultError::Exists(text()),
            VaultError::Full(text()),
            VaultError::Store { what: text(), why: text(), transient: false },
            VaultError::Store { what: text(), why: text(), transient: true },
            VaultError::Key(text()),
            VaultError::Failed(text()),
            VaultError::Refused(text()),
            VaultError::Unfit("ä".repeat(3000)),
        ];
        for error in all {
            let mut out = Vec::new();
            put(&mut out, &error);
            let mut reader = Reader::new(&out);
            let back = read(&mut reader).unwrap();
            if let VaultError::Unfit(text) = &back {
                assert_eq!(text.len(), TEXT_LENGTH_MAX);
                continue;
            }
            assert_eq!(back, error);
        }
    }
}
