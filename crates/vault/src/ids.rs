//! How objects get their names.

use crate::object::{ChunkId, Kind};

impl Kind {
    /// The byte that stands for it in ids, records and packs.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Tree => 1,
        }
    }
}

/// The id of an object: keyed BLAKE3 of kind (1 byte), number of references (4 bytes, little endian), references, content.
#[must_use]
pub fn chunk_id(id_key: &[u8; 32], kind: Kind, refs: &[ChunkId], plain: &[u8]) -> ChunkId {
    let mut hasher = blake3::Hasher::new_keyed(id_key);
    let count = u32::try_from(refs.len()).expect("invariant: the number of references is bounded");
    hasher.update(&[kind.code()]);
    hasher.update(&count.to_le_bytes());
    for id in refs {
        hasher.update(&id.0);
    }
    hasher.update(plain);
    ChunkId(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_depends_on_key_kind_references_and_content() {
        let child = ChunkId([9; 32]);
        let ids = [
            chunk_id(&[1; 32], Kind::Data, &[], b"x"),
            chunk_id(&[2; 32], Kind::Data, &[], b"x"),
            chunk_id(&[1; 32], Kind::Tree, &[], b"x"),
            chunk_id(&[1; 32], Kind::Tree, &[child], b"x"),
            chunk_id(&[1; 32], Kind::Data, &[], b"y"),
            // The same bytes after the kind, cut elsewhere.
            chunk_id(&[1; 32], Kind::Tree, &[], &child.0),
        ];
        for (at, id) in ids.iter().enumerate() {
            assert!(!ids[..at].contains(id), "{at}");
        }
    }

    #[test]
    fn version_1_has_this_id() {
        let id = chunk_id(&[1; 32], Kind::Tree, &[ChunkId([2; 32])], b"anshin");
        assert_eq!(id.hex(), "3989cd2b3443402fc3082e7bff09c9840af063dbf0bfbd6d6cc07186c8e187fb");
    }
}
