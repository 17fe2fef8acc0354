//! Where a vault lies: a small set of operations on named, immutable objects.
//!
//! An object appears whole or not at all, is durable when [`Store::put`] returns, is never changed, and is seen by every
//! reader and listing from then on. Nothing else is asked of a storage; [`probe`] tests it before a vault is made.

pub mod fault;
pub mod local;
pub mod open;
pub mod s3;

use crate::object::VaultError;
use bytes::Bytes;

/// A storage of objects. Names are made of `a-z 0-9 . - _` with `/` between their parts.
pub trait Store: Send + Sync {
    /// Writes an object of these parts, one after the other.
    ///
    /// # Errors
    /// [`VaultError::Exists`] if there is one of this name, which is then untouched; [`VaultError::Full`]; [`VaultError::Store`],
    /// after which the object may be there whole or not at all.
    fn put(&self, name: &str, parts: &[Bytes]) -> Result<(), VaultError>;

    /// Reads a whole object.
    ///
    /// # Errors
    /// [`VaultError::NotFound`], [`VaultError::TooLarge`] beyond [`OBJECT_SIZE_MAX`], [`VaultError::Store`].
    fn get(&self, name: &str) -> Result<Bytes, VaultError>;

    /// Reads `length` bytes, at least one, from `offset`.
    ///
    /// # Errors
    /// As [`Store::get`]; [`VaultError::Damaged`] if the object ends before.
    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Bytes, VaultError>;

    /// Names and sizes of all objects whose names begin with `prefix`, which ends with `/` or is empty; in order of names.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, VaultError>;

    /// Removes an object; none of this name is no error.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    fn delete(&self, name: &str) -> Result<(), VaultError>;

    /// Removes objects in this order; with one wait for durability where that is possible.
    ///
    /// # Errors
    /// As [`Store::delete`]; some may be removed then.
    fn delete_many(&self, names: &[String]) -> Result<(), VaultError> {
        names.iter().try_for_each(|name| self.delete(name))
    }

    /// Whether an operation takes less time than it would take to gather several into one.
    fn is_near(&self) -> bool;

    /// Bytes that still fit, where there is an end to them.
    fn room(&self) -> Option<u64> {
        None
    }

    /// Whether what still fits is left to garbage collection, which must write a little before it can give back much.
    fn is_tight(&self) -> bool {
        false
    }

    /// The place as an administrator knows it, without credentials.
    fn describe(&self) -> String;
}

/// Longest object a vault ever makes or reads: an index segment of full size with its filter stays below.
pub const OBJECT_SIZE_MAX: u64 = 256 << 20;
const NAME_LENGTH_MAX: usize = 256;

/// Refuses names that could leave the storage's own area or that some storage would not take.
///
/// # Errors
/// [`VaultError::Store`].
pub fn check_name(name: &str) -> Result<(), VaultError> {
    let part_is_good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
    };
    if name.len() <= NAME_LENGTH_MAX && name.split('/').all(part_is_good) {
        return Ok(());
    }
    Err(VaultError::Store {
        what: format!("`{}`", name.escape_default()),
        why: "not a name of an object".into(),
        transient: false,
    })
}

/// Tests that a storage keeps what a vault rests on: that an object is never overwritten, is seen at once, and can be
/// read in part. `nonce` makes the names of the probe's objects unique.
///
/// # Errors
/// [`VaultError::Unfit`] naming what it does not keep; other errors if it cannot be used at all.
pub fn probe(store: &dyn Store, nonce: u64) -> Result<(), VaultError> {
    let name = format!("probe/{nonce:016x}");
    let unfit = |why: &str| Err(VaultError::Unfit(why.to_owned()));
    store.put(&name, &[Bytes::from_static(b"first "), Bytes::from_static(b"content")])?;
    let result = (|| {
        match store.put(&name, &[Bytes::from_static(b"overwritten")]) {
            Err(VaultError::Exists(_)) => {}
            Ok(()) => {
                return unfit(
                    "it overwrites an object that it was told not to overwrite (If-None-Match is ignored)",
                );
            }
            Err(error) => return Err(error),
        }
        if store.get(&name)? != b"first content"[..] {
            return unfit("an object does not hold what was written");
        }
        if store.get_range(&name, 6, 4)? != b"cont"[..] {
            return unfit("a part of an object is not read as asked");
        }
        if store.list("probe/")?.iter().all(|(listed, size)| *listed != name || *size != 13) {
            return unfit("an object that was written is not listed");
        }
        Ok(())
    })();
    let cleaned = store.delete(&name);
    result?;
    cleaned?;
    match store.get(&name) {
        Err(VaultError::NotFound(_)) => Ok(()),
        Ok(_) => unfit("an object that was deleted is still read"),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_storage() {
        for good in ["vault", "packs/00ff/d-12", "keys/a/1.key"] {
            check_name(good).unwrap();
        }
        for bad in ["", "/etc", "a/../b", "a//b", "a/", ".hidden", "a\0b", "Ä", "A", &"a".repeat(300)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
