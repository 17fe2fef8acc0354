//! Text for people, in the form administrators of such clusters know.

mod status;
mod summary;

pub(crate) use status::status;
pub(crate) use summary::{changes, execution};
