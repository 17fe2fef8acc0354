//! Files and commands of the machine, commands before and after, limits, and stopping.

use crate::common::{PATIENCE, Running, Scratch, access, back_up, job, restore};
use anshin_base::ByteSize;
use anshin_director::{
    Span,
    plan::{Hook, HookWhen, OnFailure, Source},
    run::AttemptState,
};
use anshin_node::backup::{
    job::Subject,
    restore_job::{Conflict, Destination, Part, RestoreJob},
};
use std::{fs, path::Path, time::Instant};

fn files(path: &Path) -> Source {
    let paths = vec![path.display().to_string()];
    Source::Files { on: "a".into(), name: None, paths, exclude: Vec::new(), one_file_system: false }
}

fn command(words: &[&str]) -> Source {
    let command = words.iter().map(ToString::to_string).collect();
    Source::Command { on: "a".into(), name: "dump.sql".into(), command }
}

fn hook(text: &str, when: HookWhen, on_failure: OnFailure) -> Hook {
    Hook { run: vec!["sh".into(), "-c".into(), text.into()], when, on_failure, timeout: Span(20) }
}

fn restore_to(scratch: &Scratch, snapshot: &str, beneath: &str, to: &Path) {
    let job = RestoreJob {
        vault: access(),
        snapshot: snapshot.into(),
        part: Part { beneath: beneath.into(), only: Vec::new() },
        to: Destination::Directory { path: to.into() },
        conflict: Conflict::Refuse,
        verify: true,
        service: None,
    };
    assert_eq!(restore(scratch, &job).unwrap().verified, Some(true));
}

#[test]
fn files_and_commands_are_backed_up_between_their_commands() {
    let scratch = Scratch::new("machine");
    let tree = scratch.directory("tree");
    fs::write(tree.join("a"), "one").unwrap();
    let told = scratch.path("told");
    let tell = |word: &str| format!("echo {word} $ANSHIN_RESULT $ANSHIN_TARGET >> {}", told.display());
    let mut wanted = job(files(&tree), Subject::Machine);
    wanted.work.before = vec![
        hook(
            &format!("echo before > {}/before; {}", tree.display(), tell("before")),
            HookWhen::Always,
            OnFailure::Fail,
        ),
        hook("exit 3", HookWhen::Always, OnFailure::Warn),
    ];
    wanted.work.after = vec![
        hook(&tell("success"), HookWhen::Success, OnFailure::Fail),
        hook(&tell("failure"), HookWhen::Failure, OnFailure::Fail),
        hook(&tell("always"), HookWhen::Always, OnFailure::Fail),
    ];
    let sealed = back_up(&scratch, &wanted);
    assert_eq!(sealed.warnings, 1, "a command that only warns is counted");
    assert_eq!(
        fs::read_to_string(&told).unwrap(),
        "before begin files/a\nsuccess good files/a\nalways good files/a\n"
    );
    let back = scratch.path("back");
    restore_to(&scratch, &sealed.snapshot.to_string(), &tree.display().to_string(), &back);
    assert_eq!(fs::read_to_string(back.join("before")).unwrap(), "before\n");

    fs::remove_file(&told).unwrap();
    wanted.work.before = vec![hook("exit 1", HookWhen::Always, OnFailure::Fail)];
    // What comes after one that fails sets right what was changed before.
    wanted.work.after.insert(0, hook("exit 4", HookWhen::Always, OnFailure::Fail));
    let failed = Running::start(&scratch, "backup", &wanted).last();
    assert!(matches!(failed, AttemptState::Failed { again: true, .. }), "{failed:?}");
    assert_eq!(fs::read_to_string(&told).unwrap(), "failure failed files/a\nalways failed files/a\n");

    let sealed = back_up(&scratch, &job(command(&["sh", "-c", "seq 1 200000"]), Subject::Machine));
    let back = scratch.path("back-dump");
    restore_to(&scratch, &sealed.snapshot.to_string(), "", &back);
    assert!(fs::read_to_string(back.join("dump.sql")).unwrap().ends_with("199999\n200000\n"));
    let failed = Running::start(
        &scratch,
        "backup",
        &job(command(&["sh", "-c", "echo half; exit 1"]), Subject::Machine),
    )
    .last();
    assert!(matches!(failed, AttemptState::Failed { .. }), "half a dump is no backup: {failed:?}");
}

fn alive(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
        && !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") Z ")
}

/// A backup of a command that would go on for ever, once it goes on; the command's pid.
fn endless(
    scratch: &Scratch,
    change: impl FnOnce(&mut anshin_node::backup::job::BackupJob),
) -> (Running, String) {
    let pid = scratch.path("pid");
    let _ = fs::remove_file(&pid);
    let text = format!("echo $$ > {}.new; mv {0}.new {0}; while :; do sleep 1; echo x; done", pid.display());
    let mut wanted = job(command(&["sh", "-c", &text]), Subject::Machine);
    change(&mut wanted);
    let running = Running::start(scratch, "backup", &wanted);
    let end = Instant::now() + PATIENCE;
    while !pid.exists() {
        assert!(Instant::now() < end);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    (running, fs::read_to_string(&pid).unwrap().trim().to_owned())
}

#[test]
fn an_executor_stops_with_its_daemon_when_told_and_when_its_time_is_over() {
    let scratch = Scratch::new("stop");
    let failed = |running: &mut Running, word: &str, pid: &str| {
        match running.last() {
            AttemptState::Failed { reason, again: true } => assert!(reason.contains(word), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert!(!alive(pid), "its programs end with it");
    };
    let (mut running, pid) = endless(&scratch, |_| {});
    assert!(running.line().unwrap().contains("working"));
    running.input.take();
    failed(&mut running, "daemon is gone", &pid);

    let (mut running, pid) = endless(&scratch, |_| {});
    let id = i32::try_from(running.child.id()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), rustix::process::Signal::TERM)
        .unwrap();
    failed(&mut running, "told to stop", &pid);

    let (mut running, pid) = endless(&scratch, |job| job.work.run_time = Some(Span(2)));
    failed(&mut running, "took longer than the 2 s", &pid);
}

#[test]
fn what_is_sent_keeps_to_the_bandwidth() {
    let scratch = Scratch::new("bandwidth");
    let tree = scratch.directory("tree");
    must_random(&tree.join("random"), 6 << 20);
    let mut wanted = job(files(&tree), Subject::Machine);
    wanted.work.bandwidth = ByteSize(2 << 20);
    let begin = Instant::now();
    back_up(&scratch, &wanted);
    assert!(begin.elapsed().as_secs_f64() > 1.5, "6 MiB at 2 MiB a second: {:?}", begin.elapsed());
}

fn must_random(path: &Path, bytes: u64) {
    use std::io::Read;
    let mut random = fs::File::open("/dev/urandom").unwrap().take(bytes);
    std::io::copy(&mut random, &mut fs::File::create(path).unwrap()).unwrap();
}
