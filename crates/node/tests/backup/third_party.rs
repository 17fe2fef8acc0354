//! The example plugin of docs/examples, in Python.

use crate::common::{Running, Scratch, access, back_up, job, must, restore};
use anshin_director::{plan::Source, run::AttemptState};
use anshin_node::backup::{
    job::{PluginSubject, Subject},
    restore_job::{Conflict, Destination, Part, RestoreJob, ServiceRestore},
};
use std::{collections::BTreeMap, fs, path::Path, process::Command};

fn python(text: &str) -> String {
    String::from_utf8(must("python3", &["-c", text]).stdout).unwrap()
}

fn sql(database: &Path, statement: &str) -> String {
    python(&format!(
        "import sqlite3; c = sqlite3.connect({:?}); print(c.execute({statement:?}).fetchone()); c.commit()",
        database.display().to_string()
    ))
}

fn plugin(name: &str, database: &Path) -> PluginSubject {
    let facts = BTreeMap::from([("database".to_owned(), database.display().to_string())]);
    PluginSubject { plugin: name.into(), facts }
}

fn wanted(plugin: PluginSubject) -> anshin_node::backup::job::BackupJob {
    let source = Source::Service { service: "app".into(), plugin: None };
    job(source, Subject::Service { service: "app".into(), volume: None, plugin: Some(plugin) })
}

#[test]
fn a_plugin_in_another_language_backs_up_restores_and_checks() {
    if !Command::new("python3").arg("-c").arg("import sqlite3").status().is_ok_and(|status| status.success())
    {
        println!("SKIPPED: python3 with sqlite3 is not installed");
        return;
    }
    let scratch = Scratch::new("sqlite");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/plugins/sqlite");
    fs::copy(example, scratch.directory("plugins").join("sqlite")).unwrap();
    let database = scratch.directory("app").join("app.db");
    sql(&database, "CREATE TABLE t (x)");
    sql(&database, "INSERT INTO t SELECT value FROM json_each('[1,2,3]')");
    let sealed = back_up(&scratch, &wanted(plugin("sqlite", &database)));
    sql(&database, "DELETE FROM t");

    let mut job = RestoreJob {
        vault: access(),
        snapshot: sealed.snapshot,
        part: Part::default(),
        to: Destination::Directory { path: scratch.path("back") },
        conflict: Conflict::Refuse,
        verify: false,
        service: Some(ServiceRestore {
            service: "app".into(),
            plugin: plugin("sqlite", &database),
            time: None,
            log: true,
            at_start: None,
            check: true,
        }),
    };
    let done = restore(&scratch, &job).unwrap();
    assert_eq!(done.checked.as_deref(), Some("integrity_check is ok, 1 tables"));
    assert_eq!(sql(&done.place.unwrap(), "SELECT sum(x) FROM t"), "(6,)\n");
    job.to = Destination::InPlace;
    let done = restore(&scratch, &job).unwrap();
    assert_eq!(sql(&database, "SELECT sum(x) FROM t"), "(6,)\n");
    assert_eq!(sql(&done.before.unwrap(), "SELECT sum(x) FROM t"), "(None,)\n", "what was there is kept");
    job.to = Destination::Directory { path: scratch.path("later") };
    job.service.as_mut().unwrap().time = Some("2026-01-01T00:00:00Z".into());
    assert!(restore(&scratch, &job).unwrap_err().message.contains("no log"));
}

#[test]
fn a_plugin_that_breaks_the_protocol_fails_the_attempt_and_says_how() {
    let scratch = Scratch::new("bad-plugin");
    let plugins = scratch.directory("plugins");
    for (name, text, word, again) in [
        ("gone", "exit 0", "without a last word", true),
        ("garbage", "echo hello", "hello", true),
        ("escape", r#"echo '{"say":"file","name":"../x","bytes":1}'; echo x"#, "named a part", true),
        ("short", r#"echo '{"say":"file","name":"x","bytes":100}'; echo x"#, "", true),
        (
            "refuses",
            r#"echo '{"say":"failed","reason":"not like this","again":false}'"#,
            "not like this",
            false,
        ),
    ] {
        fs::write(plugins.join(name), format!("#!/bin/sh\nread ask\n{text}\n")).unwrap();
        must("chmod", &["755", plugins.join(name).to_str().unwrap()]);
        match Running::start(&scratch, "backup", &wanted(plugin(name, Path::new("/x")))).last() {
            AttemptState::Failed { reason, again: tries } => {
                assert!(reason.contains(word) && tries == again, "{name}: {reason} {tries}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let unknown = Running::start(&scratch, "backup", &wanted(plugin("nowhere", Path::new("/x")))).last();
    assert!(matches!(&unknown, AttemptState::Failed { again: false, .. }), "{unknown:?}");
}
