//! Reading sealed objects: those that lie beside each other with one request, damaged copies replaced by good ones.

use super::domain::Domain;
use crate::index::set::{Found, Place, Stored};
use crate::object::{ChunkId, VaultError};
use crate::pack::WriterId;
use crate::seal::{Sealed, SealedKind};

/// Bytes between two objects that are read along rather than asked for separately.
const GAP_NEAR: u64 = 16 << 10;
const GAP_FAR: u64 = 256 << 10;
/// Most bytes read with one request.
const WINDOW: u64 = 8 << 20;

/// Which copies of an object count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copies {
    /// Those this writer has put or given its word for.
    Of(WriterId),
    /// All.
    All,
}

impl Copies {
    const fn preferred(self) -> WriterId {
        match self {
            Self::Of(writer) => writer,
            Self::All => WriterId::MIN,
        }
    }
}

impl Domain {
    /// Reads objects, in the order asked for.
    pub(crate) fn read_many(&self, ids: &[ChunkId], copies: Copies) -> Result<Vec<Sealed>, VaultError> {
        let mut out: Vec<Option<Sealed>> = vec![None; ids.len()];
        let mut stored: Vec<(usize, Stored)> = Vec::new();
        for (at, id) in ids.iter().enumerate() {
            let mut first = None;
            self.index.visit(id, |found| {
                let counts = copies == Copies::All || copies == Copies::Of(found.writer);
                if counts && found.kind != SealedKind::Alias && first.is_none() {
                    first = Some(found);
                }
            })?;
            match first.map(|found| found.place) {
                Some(Place::Held(sealed)) => out[at] = Some(sealed),
                Some(Place::Stored(place)) => stored.push((at, place)),
                None => out[at] = Some(self.read_any(id, copies)?),
            }
        }
        stored.sort_unstable_by_key(|(_, place)| (place.pack.name, place.offset));
        let mut rest = &stored[..];
        while let Some((_, first)) = rest.first() {
            let count = self.window(first, rest);
            let (group, later) = rest.split_at(count);
            self.read_window(ids, group, copies, &mut out)?;
            rest = later;
        }
        Ok(out.into_iter().map(|sealed| sealed.expect("invariant: every place was filled")).collect())
    }

    /// How many of `rest`, which begins with `first`, one request reads.
    fn window(&self, first: &Stored, rest: &[(usize, Stored)]) -> usize {
        let gap = if self.store().is_near() { GAP_NEAR } else { GAP_FAR };
        let start = u64::from(first.offset);
        let mut end = start;
        let fits = |(_, place): &&(usize, Stored)| {
            let offset = u64::from(place.offset);
            let next = offset + u64::from(place.length);
            let fits = place.pack.name == first.pack.name
                && (end == start || (offset <= end + gap && next - start <= WINDOW));
            end = end.max(next);
            fits
        };
        rest.iter().take_while(fits).count().max(1)
    }

    fn read_window(
        &self,
        ids: &[ChunkId],
        group: &[(usize, Stored)],
        copies: Copies,
        out: &mut [Option<Sealed>],
    ) -> Result<(), VaultError> {
        let start = group[0].1.offset;
        let end = group.iter().map(|(_, place)| place.offset + place.length).max().unwrap_or(start);
        let path = group[0].1.pack.name.path(self.id);
        let bytes = self.store().get_range(&path, u64::from(start), (end - start) as usize);
        for (at, place) in group {
            let id = &ids[*at];
            let from = (place.offset - start) as usize;
            let sealed = match &bytes {
                Ok(bytes) => Sealed::parse(bytes.slice(from..from + place.length as usize)).ok(),
                Err(VaultError::Damaged { .. } | VaultError::NotFound(_)) => None,
                Err(error) => return Err(error.clone()),
            };
            out[*at] = match sealed.filter(|sealed| sealed.id() == *id && sealed.kind() == place.kind) {
                Some(sealed) => Some(sealed),
                None => Some(self.read_any(id, copies)?),
            };
        }
        Ok(())
    }

    /// Reads one copy; an error that names the pack if it is not what it was.
    pub(crate) fn read_copy(&self, id: &ChunkId, place: &Place) -> Result<Sealed, VaultError> {
        let stored = match place {
            Place::Held(sealed) => return Ok(sealed.clone()),
            Place::Stored(stored) => stored,
        };
        let path = stored.pack.name.path(self.id);
        let damaged =
            |why: &str| VaultError::damaged(format!("object {id} in pack {}", stored.pack.name), why);
        let bytes = match self.store().get_range(&path, u64::from(stored.offset), stored.length as usize) {
            Ok(bytes) => bytes,
            Err(VaultError::Damaged { why, .. }) => return Err(damaged(&why)),
            Err(error) => return Err(error),
        };
        match Sealed::parse(bytes) {
            Ok(sealed) if sealed.id() == *id && sealed.kind() == stored.kind => Ok(sealed),
            Ok(_) => Err(damaged("another object lies in its place")),
            Err(VaultError::Damaged { why, .. }) => Err(damaged(&why)),
            Err(error) => Err(error),
        }
    }

    /// Reads an object from the first good copy. Bad ones are remembered as not being there, so that the next backup
    /// puts the object anew.
    pub(crate) fn read_any(&self, id: &ChunkId, copies: Copies) -> Result<Sealed, VaultError> {
        let all = self.index.copies(id, copies.preferred())?;
        let mut reason = VaultError::Missing(*id);
        for found in all.iter().filter(|found| copies == Copies::All || copies == Copies::Of(found.writer)) {
            match self.read_through(id, found, &all) {
                Ok(Some(sealed)) => return Ok(sealed),
                Ok(None) => {}
                Err(error @ (VaultError::Damaged { .. } | VaultError::NotFound(_))) => {
                    if let (VaultError::Damaged { .. }, Place::Stored(stored)) = (&error, &found.place) {
                        let bad = (stored.pack.name, stored.offset);
                        self.index.change_avoided(|avoided| avoided.objects.extend([bad]));
                    }
                    reason = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(reason)
    }

    /// Reads a copy, or what it stands for if it is an alias.
    fn read_through(&self, id: &ChunkId, found: &Found, all: &[Found]) -> Result<Option<Sealed>, VaultError> {
        let sealed = self.read_copy(id, &found.place)?;
        let Some(hash) = sealed.alias_of() else { return Ok(Some(sealed)) };
        for other in all.iter().filter(|other| other.kind != SealedKind::Alias) {
            match self.read_copy(id, &other.place) {
                Ok(sealed) if sealed.hash() == hash => return Ok(Some(sealed)),
                Ok(_) | Err(VaultError::Damaged { .. } | VaultError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
