//! Extended attributes: in the entry, or in an object of their own.

use super::{
    VERSION, XATTR_VALUE_INLINE_MAX, XATTRS_INLINE_MAX, Xattr, Xattrs, object::KIND_XATTRS, wire::Writer,
};
use anshin_vault::{Kind, Sink, VaultError};

/// Sorts the attributes of a file and puts them where they belong.
///
/// # Errors
/// If the vault does not take an object.
pub fn seal_xattrs(sink: &dyn Sink, mut list: Vec<Xattr>) -> Result<Xattrs, VaultError> {
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list.dedup_by(|a, b| a.name == b.name);
    let total: usize = list.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
    if total <= XATTRS_INLINE_MAX {
        return Ok(Xattrs::Inline(list));
    }
    let mut writer = Writer::default();
    writer.byte(VERSION);
    writer.byte(KIND_XATTRS);
    writer.number(list.len() as u64);
    let mut refs = Vec::new();
    for xattr in &list {
        writer.bytes(&xattr.name);
        writer.number(xattr.value.len() as u64);
        if xattr.value.len() <= XATTR_VALUE_INLINE_MAX {
            writer.0.extend_from_slice(&xattr.value);
        } else {
            refs.push(sink.put(Kind::Data, &[], &xattr.value)?);
        }
    }
    Ok(Xattrs::Stored(sink.put(Kind::Tree, &refs, &writer.0)?))
}
