//! Rule breaks that can be switched on to prove that the tests see them. Compiled out unless the feature `bugs` is on.

/// Which rules to break. With the feature off every question is answered by a constant `false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent switches")]
pub struct Bugs {
    /// Acknowledge a write when the local disk has it (R2).
    pub acknowledge_alone: bool,
    /// Cool an extent before the peers confirmed a flush (R5).
    pub cool_early: bool,
    /// Serve without overwriting the members' open windows (R6).
    pub skip_reconciliation: bool,
    /// Serve without waiting out the lease that was granted to the predecessor (R11).
    pub skip_grant_wait: bool,
    /// Clear the dirty record of a peer when it connects (I4).
    pub clear_dirty_at_connect: bool,
    /// Take a peer that comes back in the session and under the primary in which it left for equal (I4).
    pub trust_reconnect: bool,
    /// Count a restarted member as still in sync (R4).
    pub accept_old_session: bool,
    /// Resync only what the source's own record says (R6).
    pub forget_peer_hot: bool,
    /// Complete what waits for a silent member before its removal has committed (R2).
    pub complete_before_removal: bool,
    /// Answer while the removal of a member may still be recorded (R3).
    pub answer_in_doubt: bool,
    /// Submit and send a write before its extent is durable in the activity log (R5).
    pub write_before_log: bool,
    /// Take a replica that was never met before for equal (R7).
    pub trust_newcomer: bool,
    /// Take what is on disk for granted: no check for an old image (R7).
    pub trust_old_image: bool,
}

macro_rules! questions {
    ($($name:ident)*) => {
        impl Bugs {
            $(
                #[cfg(feature = "bugs")]
                pub(crate) fn $name(&self) -> bool {
                    self.$name
                }
                #[cfg(not(feature = "bugs"))]
                #[allow(clippy::unused_self, reason = "same call in both builds")]
                #[inline]
                pub(crate) const fn $name(&self) -> bool {
                    false
                }
            )*
        }
    };
}

questions! {
    acknowledge_alone cool_early skip_reconciliation skip_grant_wait clear_dirty_at_connect trust_reconnect accept_old_session
    forget_peer_hot complete_before_removal answer_in_doubt write_before_log trust_newcomer trust_old_image
}
