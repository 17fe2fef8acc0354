//! The part of the interface that is about restores of services.

use super::Answer;
use crate::view::{RestoreStart, RestoreView};

/// Restores of services, on the node that is asked.
pub trait Restores: Send + Sync + 'static {
    /// Restores that this daemon knows, oldest first.
    fn restore_list(&self) -> Answer<'_, Vec<RestoreView>>;

    /// Begins a restore.
    fn restore_start(&self, request: RestoreStart) -> Answer<'_, RestoreView>;

    /// One restore.
    fn restore_show(&self, id: u64) -> Answer<'_, RestoreView>;

    /// Ends a restore that goes on. What it was to replace stays as it is.
    fn restore_cancel(&self, id: u64) -> Answer<'_, RestoreView>;
}
