//! The part of the interface that is about plans and their runs.

use super::Answer;
use crate::view::{
    CalendarEntry, CatalogRebuilt, EndedRunView, PlanRun, PlanSet, PlanView, RetentionView, RunCancel,
    RunList, RunShow, RunsOpened,
};

/// Plans and runs.
pub trait Plans: Send + Sync + 'static {
    /// Every plan.
    fn plan_list(&self) -> Answer<'_, Vec<PlanView>>;

    /// One plan.
    fn plan_show<'a>(&'a self, name: &'a str) -> Answer<'a, PlanView>;

    /// Adds plans; all of them or none.
    fn plan_add(&self, request: PlanSet) -> Answer<'_, Vec<PlanView>>;

    /// Replaces a plan.
    fn plan_replace<'a>(&'a self, name: &'a str, request: PlanSet) -> Answer<'a, PlanView>;

    /// Removes a plan and cancels its open runs. Its snapshots stay.
    fn plan_remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;

    /// Runs a plan now.
    fn plan_run<'a>(&'a self, name: &'a str, request: PlanRun) -> Answer<'a, RunsOpened>;

    /// Open runs, and those that ended last.
    fn run_list(&self) -> Answer<'_, RunList>;

    /// One run.
    fn run_show(&self, run: u64) -> Answer<'_, RunShow>;

    /// Cancels a run that has not ended.
    fn run_cancel(&self, run: u64, request: RunCancel) -> Answer<'_, EndedRunView>;

    /// Lets a run that waits for its next attempt try again now.
    fn run_hasten(&self, run: u64) -> Answer<'_, RunShow>;

    /// What the rules of a plan say of the snapshots that are there.
    fn retention<'a>(&'a self, name: &'a str) -> Answer<'a, Vec<RetentionView>>;

    /// Makes this node's catalog anew from the ledger and the vaults.
    fn catalog_rebuild(&self) -> Answer<'_, CatalogRebuilt>;

    /// Runs of the last and the next days, oldest first.
    fn calendar(&self) -> Answer<'_, Vec<CalendarEntry>>;
}
