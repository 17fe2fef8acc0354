use super::*;
use anshin_base::ByteSize;
use proptest::prelude::*;

const EXAMPLE: &str = r#"
name = "web"
description = "the shop"
when = ["mon..fri 22:30", "first sunday 03:00"]
zone = "Europe/Berlin"
spread = "30m"
missed = "report"
overlap = "wait"
vault = "main"
priority = 70
expect = "2d"
tags = ["shop"]

[[what]]
kind = "files"
on = "web1"
paths = ["/etc", "/srv"]
exclude = ["*.tmp"]

[[what]]
kind = "service"
service = "db"
plugin = "postgresql"

[[what]]
kind = "volume"
volume = "data"
form = "image"

[[what]]
kind = "command"
on = "web1"
name = "all.sql"
command = ["pg_dumpall"]

[keep]
daily = 7
within = "3d"
tags = ["audit"]

[retry]
attempts = 5
wait = "1m"

[limits]
run_time = "8h"
concurrent = 2
bandwidth = 10485760

[[before]]
run = ["/usr/local/bin/quiesce"]
on_failure = "warn"
"#;

fn example() -> Plan {
    Plan::from_toml(EXAMPLE).unwrap().remove(0)
}

#[test]
fn a_plan_reads_from_toml_and_survives_toml_and_json() {
    let plan = example();
    assert_eq!(plan.limits.bandwidth, ByteSize(10 << 20));
    assert_eq!(plan.retry.factor, 3);
    assert_eq!(plan.before[0].timeout, Span::minutes(10));
    assert!(plan.check(&Known::default()).is_empty(), "{:?}", plan.check(&Known::default()));
    assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
    assert_eq!(Plan::from_toml(&plan.to_toml()).unwrap(), [plan]);
}

#[test]
fn several_plans_stand_in_one_file() {
    let text = "[[plan]]\nname = \"a\"\nvault = \"v\"\nkeep = { last = 3 }\nwhat = [{ kind = \"protected\" }]\n\
                [[plan]]\nname = \"b\"\nvault = \"v\"\nkeep = { last = 3 }\nwhat = [{ kind = \"protected\" }]\n";
    let names: Vec<_> = Plan::from_toml(text).unwrap().into_iter().map(|plan| plan.name.0).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn what_is_not_a_plan_is_named_with_its_line() {
    let unknown = EXAMPLE.replace("priority", "prioritie");
    let problem = Plan::from_toml(&unknown).unwrap_err();
    assert!(problem.message.contains("line 10") && problem.message.contains("prioritie"), "{problem}");
    let bad = EXAMPLE.replace("\"8h\"", "\"8 hours\"");
    assert!(Plan::from_toml(&bad).unwrap_err().message.contains("8 hours"));
    let kind = EXAMPLE.replace("\"image\"", "\"picture\"");
    assert!(Plan::from_toml(&kind).unwrap_err().message.contains("picture"));
}

#[test]
fn everything_wrong_is_said_at_once_and_helped() {
    let mut plan = example();
    plan.when = vec!["daily 25:00".into(), "sundey 03:00".into()];
    plan.zone = "Mars/Olympus".into();
    plan.what.push(plan.what[0].clone());
    plan.what.push(Source::Files {
        on: "web9".into(),
        name: None,
        paths: vec!["etc".into()],
        exclude: vec![],
        one_file_system: false,
    });
    plan.keep = Keep::default();
    plan.retry.attempts = 0;
    plan.limits.run_time = Some(Span(0));
    plan.limits.bandwidth = ByteSize(10);
    plan.before[0].run.clear();
    let names = |list: &[&str]| Some(list.iter().map(|&name| name.to_owned()).collect());
    let known = Known {
        machines: names(&["web1"]),
        vaults: names(&[]),
        services: names(&["db"]),
        ..Known::default()
    };
    let problems = plan.check(&known);
    for part in [
        "25",
        "sundey",
        "Mars",
        "files/web1 twice",
        "web9",
        "\"etc\"",
        "keeps nothing",
        "0 attempts",
        "run_time",
        "bandwidth",
        "empty command",
        "vault `main`",
    ] {
        assert!(problems.iter().any(|problem| problem.message.contains(part)), "{part}: {problems:#?}");
    }
    assert_eq!(problems.len(), 12, "{problems:#?}");
    assert!(
        problems.iter().all(|problem| problem.hint.is_some() && problem.message.starts_with("plan web: "))
    );
}

#[test]
fn everything_protected_is_every_service_and_of_every_volume_what_no_service_keeps() {
    let inventory = Inventory {
        services: vec![
            ServiceInfo {
                name: "db".into(),
                volume: Some("data".into()),
                plugin: Some("postgresql".into()),
                held: vec!["/srv/data/main/".into()],
            },
            ServiceInfo { name: "files".into(), volume: Some("share".into()), ..ServiceInfo::default() },
            ServiceInfo { name: "proxy".into(), ..ServiceInfo::default() },
        ],
        volumes: vec!["data".into(), "free".into(), "share".into(), "scratch".into()],
    };
    let keys =
        |what: &[Source]| -> Vec<String> { inventory.jobs(what).into_iter().map(|job| job.key.0).collect() };
    let all = Source::Protected { except: vec!["scratch".into()] };
    let whole = ["service/db", "service/files", "service/proxy", "volume/data", "volume/free"];
    assert_eq!(keys(std::slice::from_ref(&all)), whole);
    let named = Source::Service { service: "db".into(), plugin: None };
    assert_eq!(keys(&[named, all.clone()]), whole);
    let without_db = Source::Protected { except: vec!["scratch".into(), "db".into()] };
    assert_eq!(keys(&[without_db]), ["service/files", "service/proxy", "volume/free"]);
    // What lies beside the data of a program that a plugin knows is kept too, but not that data once more.
    let jobs = inventory.jobs(&[all]);
    let beside = jobs.iter().find(|job| job.key.0 == "volume/data").map(|job| &job.source);
    assert!(matches!(beside, Some(Source::Volume { exclude, .. }) if exclude == &["/srv/data/main/"]));
}

#[test]
fn the_default_plan_is_a_good_plan() {
    let plan = nightly(&"main".into(), "Asia/Tokyo");
    assert!(plan.check(&Known::default()).is_empty());
    assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
}

#[test]
fn pauses_grow_up_to_their_limit_and_end_with_the_attempts() {
    let retry = Retry::default();
    assert_eq!(retry.pause(1), Some(Span::minutes(5)));
    assert_eq!(retry.pause(2), Some(Span::minutes(15)));
    assert_eq!(retry.pause(3), None);
    let many = Retry { attempts: 99, ..retry };
    assert_eq!(many.pause(90), Some(Span::hours(1)));
}

#[test]
fn the_expected_age_follows_the_calendar_or_the_plan() {
    let now = UnixMillis(1_795_000_000_000);
    let mut plan = nightly(&"main".into(), "UTC");
    let age = |plan: &Plan| plan.expected_age(&plan.calendar().unwrap(), now);
    assert_eq!(age(&plan), Some(Span::hours(31).plus(plan.spread)));
    // Over the weekend a backup of Friday is as expected.
    plan.when = vec!["mon..fri 22:00".into()];
    assert!(age(&plan).unwrap() > Span::hours(72));
    plan.when = vec![];
    assert_eq!(age(&plan), None);
    plan.expect = Some(Span::days(9));
    assert_eq!(age(&plan), Some(Span::days(9)));
}

proptest! {
    #[test]
    fn reading_plans_never_panics(text in ".{0,200}") {
        let _ = (Plan::from_json(&text), Plan::from_toml(&text));
    }

    #[test]
    fn a_damaged_plan_is_read_or_refused(at in 0..EXAMPLE.len(), with in "[ -~]{0,3}") {
        let mut text = EXAMPLE.to_owned();
        text.replace_range(at..at + 1, &with);
        if let Ok(plans) = Plan::from_toml(&text) {
            for plan in plans {
                let _ = plan.check(&Known::default());
            }
        }
    }
}
