//! Live migration in place of stop and start.

use super::Actor;

impl Actor<'_, '_> {
    pub(super) fn migrate_alive(&mut self) {}
}
