//! Recognises changed definitions by digests of parameters.

use super::Actor;

impl Actor<'_, '_> {
    pub(super) fn check_definitions(&mut self) {}
}
