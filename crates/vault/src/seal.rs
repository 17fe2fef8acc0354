//! Sealed objects: what travels to the keeper and lies in packs.
//!
//! ```text
//! offset size
//!      0   32  id
//!     32    1  kind: 0 data, 1 tree, 2 alias
//!     33    1  form of the body: 1
//!     34    2  zero
//!     36    4  number of references
//!     40    4  length of the body
//!     44  32n  references
//!          12  nonce                       \
//!           …  encrypted content            } the body
//!          16  tag                         /
//!          16  check: BLAKE3 of all before, so that who has no key can tell whether it is intact
//! ```
//! The content that is encrypted: 1 byte coding (0 as it is, 1 zstd), 4 bytes length, the coded bytes.
//! The body of an alias is the BLAKE3 (32 bytes) of another writer's sealed object with the same id.
//!
//! **Keys and nonces.** Each object is encrypted with AES-256-GCM under a key of its own, derived from the domain's seal
//! key and the id; the nonce is derived from the id and all that is encrypted. Equal content therefore seals to equal
//! bytes, which lets a second writer prove that it holds the content by naming the hash of the sealed object. The same key with the same
//! nonce meets different plaintexts only if keyed BLAKE3 collides in 96 bits among the few codings of one content.

use crate::coder::{CHECK_SIZE, Reader, check};
use crate::ids::chunk_id;
use crate::keys::{DomainKeys, aead};
use crate::object::{ChunkId, Kind, Object, PLAIN_SIZE_MAX, REFS_MAX, VaultError};
use aws_lc_rs::aead::{Aad, Nonce};
use bytes::Bytes;
use std::cell::RefCell;

/// Bytes before the references.
pub(crate) const HEADER_SIZE: usize = 44;
const NONCE_SIZE: usize = 12;
const TAG_SIZE: usize = 16;
const CODING_SIZE: usize = 5;
const ALIAS: u8 = 2;
const ALIAS_BODY_SIZE: usize = 32;
const FORM: u8 = 1;
/// Longest sealed object. Content that does not shrink is stored as it is, so coding adds its header only.
pub const SEALED_SIZE_MAX: usize =
    HEADER_SIZE + 32 * REFS_MAX + NONCE_SIZE + CODING_SIZE + PLAIN_SIZE_MAX + TAG_SIZE + CHECK_SIZE;
/// zstd's own default: beyond it, time grows faster than size shrinks.
const ZSTD_LEVEL: i32 = 3;
/// Contents shorter than this are not worth a probe.
const PROBE_SIZE_MIN: usize = 16 << 10;

/// A sealed object whose form has been checked. Cloning it copies nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Bytes);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({}, {} bytes)", self.id(), self.0.len())
    }
}

/// What a sealed object is for, as those see it who have no key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealedKind {
    /// An object.
    Object(Kind),
    /// A writer's word that another writer's object holds what its id says.
    Alias,
}

impl SealedKind {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Object(kind) => kind.code(),
            Self::Alias => ALIAS,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Object(Kind::Data)),
            1 => Some(Self::Object(Kind::Tree)),
            ALIAS => Some(Self::Alias),
            _ => None,
        }
    }
}

thread_local! {
    /// One compressor per thread with the room it compresses into: neither is made anew for each object.
    static COMPRESSOR: RefCell<Option<(zstd::bulk::Compressor<'static>, Vec<u8>)>> = const { RefCell::new(None) };
}

impl Sealed {
    /// Takes bytes from a link or a storage. Checks the form and the check, not the content: that takes a key.
    ///
    /// # Errors
    /// [`VaultError::Damaged`].
    pub fn parse(bytes: Bytes) -> Result<Self, VaultError> {
        let what = "a sealed object";
        let mut reader = Reader::new(&bytes, what);
        reader.bytes(32)?;
        let kind = reader.u8()?;
        let (form, zero) = (reader.u8()?, reader.u16()?);
        let (refs, body) = (reader.u32()? as usize, reader.u32()? as usize);
        let kind = SealedKind::from_code(kind).ok_or_else(|| reader.bad("its kind is unknown"))?;
        if form != FORM || zero != 0 {
            return Err(reader.bad("its form is unknown"));
        }
        let fits = match kind {
            SealedKind::Object(Kind::Data) => refs == 0 && body >= NONCE_SIZE + CODING_SIZE + TAG_SIZE,
            SealedKind::Object(Kind::Tree) => refs <= REFS_MAX && body >= NONCE_SIZE + CODING_SIZE + TAG_SIZE,
            SealedKind::Alias => refs == 0 && body == ALIAS_BODY_SIZE,
        };
        if !fits || bytes.len() > SEALED_SIZE_MAX || reader.rest().len() != refs * 32 + body + CHECK_SIZE {
            return Err(reader.bad("its lengths do not fit"));
        }
        let (before, sum) = bytes.split_at(bytes.len() - CHECK_SIZE);
        if check(before) != *sum {
            return Err(reader.bad("its checksum does not match"));
        }
        Ok(Self(bytes))
    }

    /// Seals an object whose id is known.
    pub fn seal(keys: &DomainKeys, id: &ChunkId, kind: Kind, refs: &[ChunkId], plain: &[u8]) -> Self {
        debug_assert_eq!(*id, chunk_id(&keys.id, kind, refs, plain));
        COMPRESSOR.with_borrow_mut(|slot| {
            let (compressor, room) = slot.get_or_insert_with(|| {
                let compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL);
                (compressor.expect("invariant: zstd takes its default level"), Vec::new())
            });
            let shrunk = worth_compressing(plain) && {
                room.clear();
                room.reserve(zstd::zstd_safe::compress_bound(plain.len()));
                compressor.compress_to_buffer(plain, room).is_ok_and(|length| length < plain.len())
            };
            let coded = if shrunk { &room[..] } else { plain };
            Self::encrypt(keys, id, kind, refs, u8::from(shrunk), plain.len(), coded)
        })
    }

    fn encrypt(
        keys: &DomainKeys,
        id: &ChunkId,
        kind: Kind,
        refs: &[ChunkId],
        coding: u8,
        plain_length: usize,
        coded: &[u8],
    ) -> Self {
        let body = NONCE_SIZE + CODING_SIZE + coded.len() + TAG_SIZE;
        let mut out = header(id, kind.code(), refs, body, HEADER_SIZE + 32 * refs.len() + body + CHECK_SIZE);
        let clear = out.len();
        out.extend_from_slice(&[0; NONCE_SIZE]);
        out.push(coding);
        crate::coder::put_count(&mut out, plain_length);
        out.extend_from_slice(coded);
        let (head, inner) = out.split_at_mut(clear + NONCE_SIZE);
        let nonce = blake3::Hasher::new_keyed(&keys.nonce).update(&id.0).update(inner).finalize();
        let nonce: [u8; NONCE_SIZE] =
            nonce.as_bytes()[..NONCE_SIZE].try_into().expect("invariant: a hash has 32 bytes");
        head[clear..].copy_from_slice(&nonce);
        let key = aead(blake3::keyed_hash(&keys.seal, &id.0).as_bytes());
        let tag = key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&head[..clear]), inner)
            .expect("invariant: contents are far below the cipher's limit");
        out.extend_from_slice(tag.as_ref());
        crate::coder::close(&mut out);
        debug_assert!(out.len() <= SEALED_SIZE_MAX);
        Self(out.into())
    }

    /// A writer's word that the sealed object with this hash is what the id says.
    pub(crate) fn alias(id: &ChunkId, hash: &[u8; 32]) -> Self {
        let mut out = header(id, ALIAS, &[], ALIAS_BODY_SIZE, HEADER_SIZE + ALIAS_BODY_SIZE + CHECK_SIZE);
        out.extend_from_slice(hash);
        crate::coder::close(&mut out);
        Self(out.into())
    }

    /// Decrypts it and compares the content with the id.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] if it is not what was sealed under this id with these keys.
    pub fn open(&self, keys: &DomainKeys) -> Result<Object, VaultError> {
        let damaged = |why: &str| VaultError::damaged(format!("object {}", self.id()), why);
        let SealedKind::Object(kind) = self.kind() else { return Err(damaged("it holds no content")) };
        let clear = HEADER_SIZE + 32 * self.ref_count();
        let body = &self.0[clear..self.0.len() - CHECK_SIZE];
        let (nonce, sealed) = body.split_at(NONCE_SIZE);
        let nonce = Nonce::try_assume_unique_for_key(nonce).expect("invariant: a nonce has 12 bytes");
        let key = aead(blake3::keyed_hash(&keys.seal, &self.id().0).as_bytes());
        let mut inner = sealed.to_vec();
        let length = key
            .open_in_place(nonce, Aad::from(&self.0[..clear]), &mut inner)
            .map_err(|_| damaged("it was not sealed with this key, or was changed"))?
            .len();
        inner.truncate(length);
        let plain = decode_content(inner).ok_or_else(|| damaged("its content cannot be decompressed"))?;
        let refs: Vec<ChunkId> = self.refs().collect();
        if chunk_id(&keys.id, kind, &refs, &plain) != self.id() {
            return Err(damaged("its content is not what its id says"));
        }
        Ok(Object { kind, refs, plain })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ChunkId {
        ChunkId(self.0[..32].try_into().expect("invariant: parsed"))
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> SealedKind {
        SealedKind::from_code(self.0[32]).expect("invariant: parsed")
    }

    fn ref_count(&self) -> usize {
        u32::from_le_bytes(self.0[36..40].try_into().expect("invariant: parsed")) as usize
    }

    /// The objects it refers to.
    pub fn refs(&self) -> impl ExactSizeIterator<Item = ChunkId> + '_ {
        let refs = &self.0[HEADER_SIZE..HEADER_SIZE + 32 * self.ref_count()];
        refs.chunks_exact(32).map(|id| ChunkId(id.try_into().expect("invariant: chunks of 32")))
    }

    /// The hash an alias names.
    pub(crate) fn alias_of(&self) -> Option<[u8; 32]> {
        (self.kind() == SealedKind::Alias)
            .then(|| self.0[HEADER_SIZE..HEADER_SIZE + 32].try_into().expect("invariant: parsed"))
    }

    /// BLAKE3 of all its bytes: the proof that someone else holds the same.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.0).as_bytes()
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.0
    }
}

fn header(id: &ChunkId, kind: u8, refs: &[ChunkId], body: usize, whole: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(whole);
    out.extend_from_slice(&id.0);
    out.extend_from_slice(&[kind, FORM, 0, 0]);
    crate::coder::put_count(&mut out, refs.len());
    crate::coder::put_count(&mut out, body);
    for id in refs {
        out.extend_from_slice(&id.0);
    }
    out
}

/// The content of what was decrypted; None if it is not what a sealer makes.
fn decode_content(mut inner: Vec<u8>) -> Option<Vec<u8>> {
    let (coding, length) = (*inner.first()?, inner.get(1..CODING_SIZE)?);
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    if length > PLAIN_SIZE_MAX {
        return None;
    }
    match coding {
        0 => {
            inner.drain(..CODING_SIZE);
            (inner.len() == length).then_some(inner)
        }
        1 => {
            let plain = zstd::bulk::decompress(&inner[CODING_SIZE..], length).ok()?;
            (plain.len() == length).then_some(plain)
        }
        _ => None,
    }
}

/// Whether compressing may pay: measures the entropy of bytes in 16 samples spread over the content. Random, encrypted and
/// compressed bytes come to more than 7.9 bits in a sample of 8 KiB, text and programs stay far below.
fn worth_compressing(plain: &[u8]) -> bool {
    if plain.len() < PROBE_SIZE_MIN {
        return !plain.is_empty();
    }
    let mut counts = [0u32; 256];
    let step = plain.len() / 16;
    for sample in plain.chunks_exact(step).take(16) {
        for byte in &sample[..512] {
            counts[usize::from(*byte)] += 1;
        }
    }
    let entropy: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / 8192.0;
            -share * share.log2()
        })
        .sum();
    entropy < 7.9
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(n: u8) -> DomainKeys {
        DomainKeys::derive([n; 32])
    }

    fn seal(keys: &DomainKeys, kind: Kind, refs: &[ChunkId], plain: &[u8]) -> Sealed {
        Sealed::seal(keys, &chunk_id(&keys.id, kind, refs, plain), kind, refs, plain)
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn version_1_has_these_bytes() {
        let sealed = seal(&keys(1), Kind::Tree, &[ChunkId([2; 32])], b"anshin");
        let golden = concat!(
            "78c95ff4bcb54fc57f4bf9a90ad0e0020a5bc0ca7e481d0b2e0d6277de183b7d",
            "01010000010000002700000002020202020202020202020202020202020202020202020202020202020202",
            "028a6c60038a176345e80dee7a03842a7672cd8d73c90450915466b81462ddff14c85fc3052258988331390a",
            "15987e1e52a9b4043fb701e2",
        );
        assert_eq!(crate::coder::hex(sealed.bytes()), golden);
    }

    #[test]
    fn compressible_content_shrinks_and_noise_is_not_even_tried() {
        let keys = keys(1);
        assert!(seal(&keys, Kind::Data, &[], &vec![b'a'; 1 << 20]).bytes().len() < 1000);
        assert!(!worth_compressing(&noise(1 << 20)));
        assert!(worth_compressing(include_bytes!("seal.rs")));
        let sealed = seal(&keys, Kind::Data, &[], &noise(1 << 20));
        assert_eq!(
            sealed.bytes().len(),
            (1 << 20) + HEADER_SIZE + NONCE_SIZE + CODING_SIZE + TAG_SIZE + CHECK_SIZE
        );
    }

    #[test]
    fn equal_content_seals_to_equal_bytes_and_other_domains_share_nothing() {
        let one = seal(&keys(1), Kind::Data, &[], b"content");
        assert_eq!(one, seal(&keys(1), Kind::Data, &[], b"content"));
        let other = seal(&keys(2), Kind::Data, &[], b"content");
        assert_ne!(one.id(), other.id());
        assert!(matches!(one.open(&keys(2)), Err(VaultError::Damaged { .. })));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed_without_a_key_and_with_one() {
        let keys = keys(1);
        let sealed = seal(&keys, Kind::Tree, &[ChunkId([2; 32])], b"some content");
        for at in 0..sealed.bytes().len() * 8 {
            let mut bytes = sealed.bytes().to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(Sealed::parse(bytes.clone().into()).is_err(), "bit {at}");
            // A keeper that also mends the check cannot deceive who has the key.
            let end = bytes.len() - CHECK_SIZE;
            let sum = check(&bytes[..end]);
            bytes[end..].copy_from_slice(&sum);
            if at / 8 < end {
                assert!(
                    Sealed::parse(bytes.into()).and_then(|sealed| sealed.open(&keys)).is_err(),
                    "bit {at}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened(tree: bool, refs: Vec<[u8; 32]>, plain: Vec<u8>, repeat in 1usize..200) {
            let keys = keys(1);
            let kind = if tree { Kind::Tree } else { Kind::Data };
            let refs: Vec<_> = refs.into_iter().filter(|_| tree).map(ChunkId).collect();
            let plain = plain.repeat(repeat);
            let sealed = seal(&keys, kind, &refs, &plain);
            let sealed = Sealed::parse(sealed.bytes().clone()).unwrap();
            prop_assert_eq!(sealed.open(&keys).unwrap(), Object { kind, refs, plain });
        }

        #[test]
        fn parsing_never_panics(bytes: Vec<u8>, refs: u32, body: u32, kind in 0u8..4, mend: bool) {
            let _ = Sealed::parse(bytes.clone().into());
            let mut framed = vec![0; 32];
            framed.extend_from_slice(&[kind, FORM, 0, 0]);
            framed.extend_from_slice(&(refs % 8).to_le_bytes());
            framed.extend_from_slice(&(body % 256).to_le_bytes());
            framed.extend_from_slice(&bytes);
            if mend {
                crate::coder::close(&mut framed);
            }
            if let Ok(sealed) = Sealed::parse(framed.into()) {
                let _ = sealed.open(&keys(1));
            }
        }

        #[test]
        fn decoding_of_content_never_panics_or_takes_too_much(coding in 0u8..3, length: u32, bytes: Vec<u8>) {
            let mut inner = vec![coding];
            inner.extend_from_slice(&length.to_le_bytes());
            inner.extend_from_slice(&bytes);
            if let Some(plain) = decode_content(inner) {
                prop_assert!(plain.len() <= PLAIN_SIZE_MAX);
            }
        }
    }
}
