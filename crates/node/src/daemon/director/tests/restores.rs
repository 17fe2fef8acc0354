use super::*;
use crate::{
    backup::{
        job::VaultAccess,
        restore_job::{Conflict, Destination, Part, RestoreDone, RestoreJob, RestoreState},
    },
    daemon::director::{RestoreBook, restore_process::RestoreProcess},
    view::RestoreView,
};
use anshin_base::Problem;
use std::time::Duration;

/// A program that works until it is told to stop, and then says this.
async fn told_to_stop(last: &RestoreState) -> Result<RestoreDone, Problem> {
    let scratch = Scratch::new();
    let last = serde_json::to_string(last).unwrap();
    let script = format!("read -r job\nwhile read -r more; do :; done\necho '{last}'\n");
    let executable = scratch.script(&script);
    let job = RestoreJob {
        vault: VaultAccess { name: "main".into(), server: NodeId(3), addresses: Vec::new() },
        snapshot: "3f2a9c00".into(),
        part: Part::default(),
        to: Destination::InPlace,
        conflict: Conflict::Refuse,
        verify: false,
        service: None,
    };
    let log = scratch.path("restore.log");
    let limit = Duration::from_secs(60);
    let process = RestoreProcess { executable: &executable, log: &log, limit };
    let cancelled = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Problem::new("restore-cancelled", "it was cancelled")
    };
    process.run(&job, cancelled, |_| {}).await
}

#[tokio::test]
async fn a_restore_that_was_done_when_it_was_cancelled_is_told_as_done() {
    let done = RestoreDone { files: 7, ..RestoreDone::default() };
    assert_eq!(told_to_stop(&RestoreState::Done(done.clone())).await.unwrap(), done);
    let failed = RestoreState::Failed { problem: Problem::new("stopped", "it stops") };
    assert_eq!(told_to_stop(&failed).await.unwrap_err().code, "restore-cancelled");
}

#[test]
fn a_restore_that_goes_on_is_not_forgotten_for_others() {
    let book = RestoreBook::default();
    let of = |service: &str| RestoreView { service: service.into(), ..RestoreView::default() };
    let (first, _stop) = book.open(of("db")).unwrap();
    for n in 0..200 {
        let (id, _stop) = book.open(of(&format!("other-{n}"))).unwrap();
        book.end(id, Ok(()));
    }
    assert!(book.in_place("db"), "restore {first} still goes on");
    assert!(book.open(of("db")).is_err());
    assert_eq!(book.all().len(), 100);
}
