//! What the kernel is asked for: attributes, directories reached without following links, names of owners.

mod attributes;
mod directory;
mod ioctl;
mod owners;
mod xattr;

pub(crate) use attributes::{Stat, StatKind, stat_at, stat_fd};
pub(crate) use directory::{Handle, HandleBudget, open_path};
pub(crate) use ioctl::{Flags, get_flags, set_flags, set_project};
pub use owners::OwnerNames;
pub(crate) use owners::{group_number, user_number};
pub(crate) use xattr::{XattrTarget, list_xattrs};
