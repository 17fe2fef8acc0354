//! The record of garbage collection in the storage: which packs were condemned, and what became of it.
//!
//! A round is two objects. `gc/DOMAIN/N.mark` names the packs that are condemned; from then on nobody relies on them.
//! `gc/DOMAIN/N.end` decides, once and for all because an object is never overwritten: *sweep* (the packs are deleted,
//! the sooner the better, by whoever comes by) or *abandon* (they are good again).

use crate::coder::{Reader, checked, close, put_count};
use crate::keys::DomainId;
use crate::object::{Kind, VaultError};
use crate::pack::PackName;
use crate::store::Store;
use std::collections::BTreeMap;

const MARK: &[u8; 8] = b"anvgcmk1";
const END: &[u8; 8] = b"anvgcen1";
const VERSION: u16 = 1;
const NAME_SIZE: usize = 33;

/// What became of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Sweep,
    Abandon,
}

/// One round as found in the storage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Round {
    pub number: u64,
    /// Seconds of Unix time by the keeper's clock.
    pub marked: u64,
    pub packs: Vec<PackName>,
    pub end: Option<(Verdict, u64)>,
}

pub(crate) fn prefix(domain: DomainId) -> String {
    format!("gc/{domain}/")
}

fn mark_path(domain: DomainId, number: u64) -> String {
    format!("gc/{domain}/{number:016x}.mark")
}

fn end_path(domain: DomainId, number: u64) -> String {
    format!("gc/{domain}/{number:016x}.end")
}

/// The bytes of a mark. `nonce` makes two marks different that two keepers write at once.
pub(crate) fn encode_mark(marked: u64, packs: &[PackName], nonce: [u8; 16]) -> Vec<u8> {
    let mut out = MARK.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&marked.to_le_bytes());
    put_count(&mut out, packs.len());
    for pack in packs {
        out.push(pack.kind.code());
        out.extend_from_slice(&pack.hash);
    }
    close(&mut out);
    out
}

pub(crate) fn decode_mark(bytes: &[u8], what: &str) -> Result<(u64, Vec<PackName>), VaultError> {
    let mut reader = Reader::new(checked(bytes, what)?, what);
    reader.opening(MARK, VERSION)?;
    reader.bytes(16)?;
    let marked = reader.u64()?;
    let count = reader.count(NAME_SIZE)?;
    let mut packs = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = match reader.u8()? {
            0 => Kind::Data,
            1 => Kind::Tree,
            _ => return Err(reader.bad("it names a pack of unknown kind")),
        };
        packs.push(PackName { kind, hash: reader.array()? });
    }
    reader.end()?;
    Ok((marked, packs))
}

pub(crate) fn encode_end(verdict: Verdict, time: u64) -> Vec<u8> {
    let mut out = END.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.push(if verdict == Verdict::Sweep { 1 } else { 2 });
    out.extend_from_slice(&time.to_le_bytes());
    close(&mut out);
    out
}

pub(crate) fn decode_end(bytes: &[u8], what: &str) -> Result<(Verdict, u64), VaultError> {
    let mut reader = Reader::new(checked(bytes, what)?, what);
    reader.opening(END, VERSION)?;
    let verdict = match reader.u8()? {
        1 => Verdict::Sweep,
        2 => Verdict::Abandon,
        _ => return Err(reader.bad("its verdict is unknown")),
    };
    let time = reader.u64()?;
    reader.end()?;
    Ok((verdict, time))
}

/// All rounds on record, and the names of objects of the record that are damaged.
pub(crate) fn load(store: &dyn Store, domain: DomainId) -> Result<(Vec<Round>, Vec<String>), VaultError> {
    let mut marks: BTreeMap<u64, Round> = BTreeMap::new();
    let mut ends = BTreeMap::new();
    let mut damaged = Vec::new();
    for (name, _) in store.list(&prefix(domain))? {
        let own = name.rsplit('/').next().unwrap_or_default();
        let number = own.split_once('.').and_then(|(number, _)| u64::from_str_radix(number, 16).ok());
        let bytes = match store.get(&name) {
            Ok(bytes) => bytes,
            // Removed since the listing: an old round.
            Err(VaultError::NotFound(_)) => continue,
            Err(error) => return Err(error),
        };
        let what = format!("garbage collection record {own}");
        match number {
            Some(number) if name == mark_path(domain, number) => match decode_mark(&bytes, &what) {
                Ok((marked, packs)) => drop(marks.insert(number, Round { number, marked, packs, end: None })),
                Err(_) => damaged.push(name),
            },
            Some(number) if name == end_path(domain, number) => match decode_end(&bytes, &what) {
                Ok(end) => drop(ends.insert(number, end)),
                Err(_) => damaged.push(name),
            },
            _ => damaged.push(name),
        }
    }
    for (number, end) in ends {
        if let Some(round) = marks.get_mut(&number) {
            round.end = Some(end);
        }
    }
    Ok((marks.into_values().collect(), damaged))
}

/// Condemns packs in a round of its own; None if another keeper began that round at the same time.
pub(crate) fn begin(
    store: &dyn Store,
    domain: DomainId,
    now: u64,
    packs: &[PackName],
) -> Result<Option<Round>, VaultError> {
    let last = store.list(&prefix(domain))?.into_iter().filter_map(|(name, _)| {
        let own = name.rsplit('/').next()?.split_once('.')?.0;
        u64::from_str_radix(own, 16).ok()
    });
    let number = last.max().map_or(1, |last| last.saturating_add(1));
    let bytes = encode_mark(now, packs, crate::keys::random()?);
    match store.put(&mark_path(domain, number), &[bytes.into()]) {
        Ok(()) => Ok(Some(Round { number, marked: now, packs: packs.to_vec(), end: None })),
        Err(VaultError::Exists(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Decides a round; returns what was decided, which is another keeper's word if that came first.
pub(crate) fn end(
    store: &dyn Store,
    domain: DomainId,
    number: u64,
    verdict: Verdict,
    now: u64,
) -> Result<Verdict, VaultError> {
    let path = end_path(domain, number);
    match store.put(&path, &[encode_end(verdict, now).into()]) {
        Ok(()) => Ok(verdict),
        Err(VaultError::Exists(_)) => Ok(decode_end(&store.get(&path)?, "a garbage collection record")?.0),
        Err(error) => Err(error),
    }
}

/// Removes a round from the record, the mark first: an end without a mark means nothing.
pub(crate) fn remove(store: &dyn Store, domain: DomainId, number: u64) -> Result<(), VaultError> {
    store.delete(&mark_path(domain, number))?;
    store.delete(&end_path(domain, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fault::FaultStore;
    use proptest::prelude::*;

    const DOMAIN: DomainId = DomainId([3; 16]);

    #[test]
    fn a_round_is_decided_once() {
        let store = FaultStore::new();
        let packs = [PackName { kind: Kind::Tree, hash: [1; 32] }];
        let round = begin(&store, DOMAIN, 5, &packs).unwrap().unwrap();
        assert_eq!(load(&store, DOMAIN).unwrap(), (vec![round.clone()], vec![]));
        assert_eq!(end(&store, DOMAIN, round.number, Verdict::Abandon, 6).unwrap(), Verdict::Abandon);
        assert_eq!(end(&store, DOMAIN, round.number, Verdict::Sweep, 7).unwrap(), Verdict::Abandon);
        assert_eq!(load(&store, DOMAIN).unwrap().0[0].end, Some((Verdict::Abandon, 6)));
        assert_eq!(begin(&store, DOMAIN, 8, &packs).unwrap().unwrap().number, round.number + 1);
        remove(&store, DOMAIN, round.number).unwrap();
        assert_eq!(load(&store, DOMAIN).unwrap().0.len(), 1);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes: Vec<u8>, mark: bool, mend: bool) {
            let mut whole = if mark { MARK.to_vec() } else { END.to_vec() };
            whole.extend_from_slice(&VERSION.to_le_bytes());
            whole.extend_from_slice(&bytes);
            if mend {
                close(&mut whole);
            }
            let _ = decode_mark(&whole, "x");
            let _ = decode_end(&whole, "x");
        }
    }
}
