//! Names of users and groups, asked of the system's own name service and remembered.

#![allow(unsafe_code)]

use crate::tree::Owner;
use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    sync::{Arc, PoisonError, RwLock},
};

/// Most a name service's answer may take.
const ANSWER_MAX: usize = 1 << 20;

/// Owners by number, with their names on this machine.
#[derive(Default)]
pub struct OwnerNames {
    known: RwLock<HashMap<(u32, u32), Arc<Owner>>>,
}

impl OwnerNames {
    /// The owner of these numbers.
    pub fn get(&self, uid: u32, gid: u32) -> Arc<Owner> {
        if let Some(owner) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&(uid, gid)) {
            return owner.clone();
        }
        let owner = Arc::new(Owner { uid, gid, user: user_name(uid), group: group_name(gid) });
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.entry((uid, gid)).or_insert(owner).clone()
    }
}

/// Calls a reentrant function of the name service with a buffer that grows until the answer fits.
fn ask<T>(mut call: impl FnMut(&mut [u8]) -> (libc::c_int, Option<T>)) -> Option<T> {
    let mut buffer = vec![0u8; 1024];
    loop {
        match call(&mut buffer) {
            (libc::ERANGE, _) if buffer.len() < ANSWER_MAX => buffer.resize(buffer.len() * 4, 0),
            (_, answer) => return answer,
        }
    }
}

fn owned(name: &CStr) -> Option<Box<[u8]>> {
    (!name.is_empty()).then(|| name.to_bytes().into())
}

fn user_name(uid: u32) -> Option<Box<[u8]>> {
    ask(|buffer| {
        // SAFETY: all-zero bytes are a valid `passwd` (null pointers and zeroes).
        let mut record: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: the pointers are to live locals, and the length is that of the buffer.
        let code = unsafe {
            libc::getpwuid_r(uid, &mut record, buffer.as_mut_ptr().cast(), buffer.len(), &mut found)
        };
        // SAFETY: if a record was found, its name points to a C string in the buffer, which still lives.
        let name = (!found.is_null()).then(|| unsafe { CStr::from_ptr(record.pw_name) });
        (code, name.and_then(owned))
    })
}

fn group_name(gid: u32) -> Option<Box<[u8]>> {
    ask(|buffer| {
        // SAFETY: all-zero bytes are a valid `group` (null pointers and zeroes).
        let mut record: libc::group = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: the pointers are to live locals, and the length is that of the buffer.
        let code = unsafe {
            libc::getgrgid_r(gid, &mut record, buffer.as_mut_ptr().cast(), buffer.len(), &mut found)
        };
        // SAFETY: if a record was found, its name points to a C string in the buffer, which still lives.
        let name = (!found.is_null()).then(|| unsafe { CStr::from_ptr(record.gr_name) });
        (code, name.and_then(owned))
    })
}

/// The number of a user of this name on this machine.
pub(crate) fn user_number(name: &[u8]) -> Option<u32> {
    let name = CString::new(name).ok()?;
    ask(|buffer| {
        // SAFETY: all-zero bytes are a valid `passwd` (null pointers and zeroes).
        let mut record: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: the pointers are to live locals, and the length is that of the buffer.
        let code = unsafe {
            libc::getpwnam_r(name.as_ptr(), &mut record, buffer.as_mut_ptr().cast(), buffer.len(), &mut found)
        };
        (code, (!found.is_null()).then_some(record.pw_uid))
    })
}

/// The number of a group of this name on this machine.
pub(crate) fn group_number(name: &[u8]) -> Option<u32> {
    let name = CString::new(name).ok()?;
    ask(|buffer| {
        // SAFETY: all-zero bytes are a valid `group` (null pointers and zeroes).
        let mut record: libc::group = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: the pointers are to live locals, and the length is that of the buffer.
        let code = unsafe {
            libc::getgrnam_r(name.as_ptr(), &mut record, buffer.as_mut_ptr().cast(), buffer.len(), &mut found)
        };
        (code, (!found.is_null()).then_some(record.gr_gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_its_name_and_a_number_without_a_user_has_none() {
        let owner = OwnerNames::default().get(0, 0);
        assert_eq!(owner.user.as_deref(), Some(&b"root"[..]));
        assert_eq!(user_number(b"root"), Some(0));
        assert_eq!(group_number(b"no such group"), None);
        assert_eq!(OwnerNames::default().get(3_999_999_999, 3_999_999_998).user, None);
    }
}
