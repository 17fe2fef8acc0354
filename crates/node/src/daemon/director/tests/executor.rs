use super::*;
use anshin_base::{Millis, Mono};
use anshin_director::{record::Progress, run::AttemptState};

fn at(seconds: u64) -> Mono {
    Mono(0).after(Millis(seconds * 1_000))
}

fn go(executor: &mut Executor, work: &Work) -> Option<BackupJob> {
    executor.order(at(1), 7, work, || Ok(job_of(work.clone())))
}

fn state(executor: &Executor, run: u64, attempt: u32) -> Option<AttemptState> {
    let found =
        executor.reports().into_iter().find(|one| (one.run, one.attempt) == (RunId(run), Attempt(attempt)));
    found.map(|one| one.state)
}

fn failed(executor: &Executor, run: u64, attempt: u32) -> bool {
    matches!(state(executor, run, attempt), Some(AttemptState::Failed { again: true, .. }))
}

#[test]
fn an_attempt_is_begun_once_however_often_it_is_ordered() {
    let mut executor = Executor::new(7);
    assert!(go(&mut executor, &work(1, 1)).is_some());
    assert!(go(&mut executor, &work(1, 1)).is_none());
    assert!(executor.drop_attempt(RunId(1), Attempt(1)));
    assert!(go(&mut executor, &work(1, 1)).is_none(), "dropped, and never begun again");
    assert!(failed(&executor, 1, 1), "which is said, so that the run goes on with the next one");
    assert!(go(&mut executor, &work(1, 2)).is_some());
}

#[test]
fn an_order_for_another_start_of_the_daemon_is_not_followed() {
    let mut executor = Executor::new(7);
    let order = executor.order(at(1), 6, &work(1, 1), || panic!("not prepared"));
    assert!(order.is_none() && executor.reports().is_empty());
}

#[test]
fn the_last_word_stands() {
    let mut executor = Executor::new(7);
    go(&mut executor, &work(1, 1));
    let (run, attempt) = (RunId(1), Attempt(1));
    assert!(!executor.said(
        run,
        attempt,
        AttemptState::Working(Progress { files: 5, ..Progress::default() })
    ));
    assert!(executor.said(run, attempt, AttemptState::Sealed(Default::default())));
    assert!(!executor.said(run, attempt, AttemptState::Working(Progress::default())));
    assert!(!executor.ended(run, attempt, "exit status: 1"));
    assert_eq!(state(&executor, 1, 1), Some(AttemptState::Sealed(Default::default())));
}

#[test]
fn a_process_that_ends_without_a_last_word_has_failed() {
    let mut executor = Executor::new(7);
    go(&mut executor, &work(1, 1));
    assert!(executor.ended(RunId(1), Attempt(1), "signal: 9"));
    assert!(failed(&executor, 1, 1));
}

#[test]
fn what_is_not_ready_is_waited_for_and_then_has_failed() {
    let mut executor = Executor::new(7);
    let mut order = |seconds| {
        let yet = || Err(NotReady::Yet("not mounted".into()));
        assert!(executor.order(at(seconds), 7, &work(1, 1), yet).is_none());
        executor.reports().len()
    };
    assert_eq!((order(1), order(200), order(302)), (0, 0, 1));
    assert!(failed(&executor, 1, 1));
}

#[test]
fn what_can_never_work_is_not_tried_again() {
    let mut executor = Executor::new(7);
    executor.order(at(1), 7, &work(1, 1), || Err(NotReady::Never("no volume".into())));
    assert!(matches!(state(&executor, 1, 1), Some(AttemptState::Failed { again: false, .. })));
}

#[test]
fn an_attempt_whose_volume_leaves_is_not_spoken_of_until_the_ledger_shows_where_it_is() {
    let mut executor = Executor::new(7);
    let subject = ready(&served(), &work(1, 1), true).unwrap();
    executor.order(at(1), 7, &work(1, 1), || Ok(subject));
    assert!(!executor.leave(at(2), "other"));
    assert!(executor.leave(at(2), "data"));
    let again = |executor: &mut Executor, seconds| {
        executor.order(at(seconds), 7, &work(1, 1), || panic!("never begun twice")).is_none()
    };
    assert!(again(&mut executor, 3) && executor.reports().is_empty());
    assert!(again(&mut executor, 63) && failed(&executor, 1, 1), "it did not leave after all");
}
