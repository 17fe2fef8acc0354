use super::*;
use anshin_director::{Span, run::AttemptState};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Runs a program as executor and gives everything that was heard of it.
async fn run(scratch: &Scratch, script: &str, work: Work, stop: Option<Duration>) -> Vec<DirectorEvent> {
    let executable = scratch.script(script);
    let (events, mut heard) = mpsc::channel(100);
    let (stopper, stopped) = oneshot::channel();
    let log = scratch.path("backup.log");
    launch(Launch { executable, arguments: Vec::new(), log, job: job_of(work) }, stopped, events);
    let mut all = Vec::new();
    let mut stopper = Some(stopper);
    let wait = stop.unwrap_or(Duration::from_secs(120));
    let until = tokio::time::sleep(wait);
    tokio::pin!(until);
    loop {
        tokio::select! {
            event = heard.recv() => match event {
                Some(event) => all.push(event),
                None => return all,
            },
            () = &mut until, if stopper.is_some() => drop(stopper.take()),
        }
    }
}

fn states(events: &[DirectorEvent]) -> Vec<AttemptState> {
    let said = events.iter().filter_map(|event| match event {
        DirectorEvent::Said { state, .. } => Some(state.clone()),
        _ => None,
    });
    said.collect()
}

fn end(events: &[DirectorEvent]) -> &str {
    match events.last() {
        Some(DirectorEvent::Ended { how, .. }) => how,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_job_goes_in_and_what_is_said_comes_out() {
    let scratch = Scratch::new();
    let script = r#"
        read -r job
        printf '%s' "$job" > "$0.job"
        echo '{"working":{"files":3,"bytes":10,"sent":4,"files_total":null,"bytes_total":null}}'
        echo for people >&2
        echo '{"sealed":{"snapshot":"s1","files":3,"bytes":10,"new_bytes":4,"warnings":0}}'"#;
    let events = run(&scratch, script, work(4, 2), None).await;
    let states = states(&events);
    assert!(matches!(&states[0], AttemptState::Working(progress) if progress.files == 3), "{states:?}");
    assert!(matches!(&states[1], AttemptState::Sealed(sealed) if sealed.snapshot == "s1".into()));
    assert!(end(&events).contains("exit status: 0"));
    let job: BackupJob =
        serde_json::from_slice(&std::fs::read(scratch.path("executor.job")).unwrap()).unwrap();
    assert_eq!(job, job_of(work(4, 2)));
    assert_eq!(std::fs::read_to_string(scratch.path("backup.log")).unwrap(), "for people\n");
}

#[tokio::test]
async fn its_input_stays_open_while_it_works() {
    let scratch = Scratch::new();
    // `read` ends only when another line comes or the input is closed. What a shell starts with `&` has no input of its own
    // accord, so it is handed over under another number.
    let script = r#"
        read -r job
        exec 3<&0
        ( read -r more <&3; touch "$0.closed" ) &
        sleep 0.3
        if [ -e "$0.closed" ]; then reason=closed; else reason=open; fi
        echo "{\"failed\":{\"reason\":\"$reason\",\"again\":true}}""#;
    let events = run(&scratch, script, work(1, 1), None).await;
    assert!(matches!(&states(&events)[..], [AttemptState::Failed { reason, .. }] if reason == "open"));
}

#[tokio::test]
async fn one_that_dies_is_told_with_how() {
    let scratch = Scratch::new();
    let events = run(&scratch, "read -r job; kill -9 $$", work(1, 1), None).await;
    assert!(states(&events).is_empty() && end(&events).contains("signal: 9"), "{events:?}");
    let nothing = run(&scratch, "exit 3", work(1, 1), None).await;
    assert!(!end(&nothing).is_empty(), "{nothing:?}");
}

#[tokio::test]
async fn nonsense_ends_it() {
    let scratch = Scratch::new();
    let events = run(&scratch, "read -r job; echo hello; sleep 100", work(1, 1), None).await;
    assert!(end(&events).contains("makes no sense"), "{events:?}");
    let script = "read -r job; head -c 200000 /dev/zero | tr '\\0' x; sleep 100";
    let events = run(&scratch, script, work(1, 1), None).await;
    assert!(end(&events).contains("makes no sense"), "a line has a bound: {events:?}");
}

#[tokio::test]
async fn it_is_asked_to_stop_and_gives_back_what_it_holds() {
    let scratch = Scratch::new();
    let script = r#"
        read -r job
        trap 'touch "$0.freed"; kill $!; exit 0' TERM
        sleep 100 & wait"#;
    let events = run(&scratch, script, work(1, 1), Some(Duration::from_millis(300))).await;
    assert!(end(&events).contains("exit status: 0"), "{events:?}");
    assert!(scratch.path("executor.freed").exists());
}

#[tokio::test]
async fn it_is_stopped_at_the_limit_of_its_time() {
    let scratch = Scratch::new();
    let limited = Work { run_time: Some(Span(1)), ..work(1, 1) };
    let events = run(&scratch, "read -r job; exec sleep 100", limited, None).await;
    assert!(
        matches!(&states(&events)[..], [AttemptState::Failed { reason, again: true }] if reason.contains("longer than 1s")),
        "{events:?}"
    );
    assert!(end(&events).contains("signal: 15"), "{events:?}");
}
