//! What the command line promises: what it prints for known states, and how it ends.

use super::{
    args::{Cli, Command},
    client::part,
    out::Style,
    protect, show, status,
};
use anshin_base::Problem;
use anshin_node::view::*;
use clap::{CommandFactory, Parser};

const SCENARIOS: [&str; 8] = [
    "healthy",
    "node-dead",
    "witness-dead",
    "resyncing",
    "suspended",
    "no-quorum",
    "backed-up",
    "backup-failing",
];
const PLAIN: Style = Style { width: 80, color: false };

fn facts(name: &str) -> Facts {
    let path = format!("{}/../node/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn status_of(name: &str) -> SiteStatus {
    SiteStatus::from_facts(facts(name))
}

#[test]
fn the_status_of_a_common_site_fits_a_small_terminal_whatever_its_state() {
    for name in SCENARIOS {
        let text = status::status(PLAIN, &status_of(name));
        assert!(text.lines().count() <= 24, "{name}: {} lines\n{text}", text.lines().count());
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
        insta::assert_snapshot!(name, text);
    }
}

#[test]
fn the_posture_comes_first() {
    for name in SCENARIOS {
        let status = status_of(name);
        let text = status::status(PLAIN, &status).replace('\n', " ");
        let expected = format!("{} {}", PLAIN.level(status.posture.level), status.posture.sentence);
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[test]
fn colour_is_never_the_only_signal() {
    let color = Style { width: 80, color: true };
    for level in [Level::Green, Level::Amber, Level::Unknown, Level::Red] {
        assert!(color.level(level).contains(&PLAIN.level(level)));
        assert!(!PLAIN.level(level).contains('\x1b'));
    }
}

#[test]
fn a_new_site_is_taught_the_next_command() {
    let mut fresh = facts("healthy");
    fresh.services.clear();
    let text = status::status(PLAIN, &SiteStatus::from_facts(fresh.clone()));
    assert!(text.contains("anshin protect NAME.service --volume data"));
    fresh.volumes.clear();
    assert!(status::status(PLAIN, &SiteStatus::from_facts(fresh)).contains("anshin volume create"));
}

#[test]
fn volumes_services_and_nodes_are_shown() {
    let mut facts = facts("resyncing");
    facts.services[0].resources[2].fail_count = 2;
    let texts = [
        show::volumes(PLAIN, &facts.volumes),
        show::volume(PLAIN, &facts.volumes[0]),
        show::services(PLAIN, &facts.services),
        show::service(PLAIN, &facts.services[0]),
        status::nodes(PLAIN, &facts),
    ];
    insta::assert_snapshot!(texts.join("\n---\n"));
}

#[test]
fn a_drill_shows_where_the_time_went() {
    let report = DrillReport {
        at: "2026-03-02T09:30:00Z".to_owned(),
        service: "postgresql".to_owned(),
        from: "a".to_owned(),
        to: Some("b".to_owned()),
        moved: true,
        passed: true,
        findings: vec!["every acknowledged write is on b".to_owned()],
        times: DrillTimes {
            detection_ms: None,
            decision_ms: Some(12),
            stop_ms: Some(230),
            promotion_ms: Some(85),
            mount_ms: Some(40),
            address_ms: Some(9),
            program_ms: Some(610),
        },
        total_ms: Some(1_340),
        restores: Vec::new(),
    };
    let planned = DrillReport {
        moved: false,
        passed: false,
        to: None,
        findings: vec!["b holds no current copy of data".to_owned()],
        times: DrillTimes::default(),
        total_ms: None,
        ..report.clone()
    };
    insta::assert_snapshot!([show::drill(PLAIN, &report), show::drill(PLAIN, &planned)].join("\n---\n"));
}

#[test]
fn an_explanation_names_reasons_and_rejected_alternatives() {
    let reason = |what: &str, why: &str| Reason { what: what.to_owned(), why: why.to_owned() };
    let answer = Explanation {
        subject: "postgresql".to_owned(),
        answer: "runs on b because a died and b held every acknowledged write".to_owned(),
        because: vec![reason("a was silent for 1.0 s", "heard last at 09:28:26 by b and c")],
        rejected: vec![reason("run on c", "c is a witness and stores no data")],
    };
    insta::assert_snapshot!(show::explanation(PLAIN, &answer));
}

#[test]
fn the_join_line_is_never_broken() {
    let token =
        JoinToken { id: "t1".to_owned(), token: "x".repeat(200), expires: "2026-03-02T10:30:00Z".to_owned() };
    let text = show::token(&token);
    assert!(text.lines().any(|line| line == format!("  anshin join {}", token.token)));
}

fn protected(line: &str) -> Result<ServiceCreate, Problem> {
    let words = format!("anshin protect {line}");
    let Command::Protect(asked) = Cli::parse_from(words.split(' ')).command else {
        panic!("not protect");
    };
    protect::service(asked)
}

#[test]
fn protect_knows_units_agents_and_programs() {
    let unit = protected("--volume data --address 10.0.0.50/24 postgresql@15-main.service").unwrap();
    assert_eq!(unit.name, "postgresql");
    assert_eq!(unit.program, Program::Systemd { unit: "postgresql@15-main.service".to_owned() });
    assert_eq!((unit.volumes, unit.address), (vec!["data".to_owned()], Some("10.0.0.50/24".to_owned())));
    let agent = protected("--param pgdata=/srv/data/pg --name db ocf:heartbeat:pgsql").unwrap();
    let parameters = [("pgdata".to_owned(), "/srv/data/pg".to_owned())].into();
    assert_eq!(agent.program, Program::Ocf { agent: "heartbeat:pgsql".to_owned(), parameters });
    assert_eq!(agent.name, "db");
    let program = protected("--volume data -- /usr/bin/thing --port 80").unwrap();
    assert_eq!(program.name, "thing");
    let arguments = ["/usr/bin/thing", "--port", "80"].map(str::to_owned).to_vec();
    assert_eq!(program.program, Program::Command { arguments });
}

#[test]
fn protect_takes_its_options_after_the_program_too() {
    let unit = protected("postgresql@15-main.service --volume data --address 10.0.0.50/24").unwrap();
    assert_eq!((unit.volumes, unit.address), (vec!["data".to_owned()], Some("10.0.0.50/24".to_owned())));
    let program = protected("--volume data /usr/bin/thing").unwrap();
    assert_eq!(program.name, "thing");
}

#[test]
fn protect_refuses_what_it_cannot_run_and_says_what_to_write() {
    for bad in
        ["postgresql", "ocf:pgsql", "ocf::x", "--param a ocf:x:y", "--param a=1 x.service", "bin/thing"]
    {
        let problem = protected(bad).unwrap_err();
        assert!(problem.code.ends_with("-format"), "{bad}: {problem}");
    }
}

#[test]
fn roles_may_be_combined_and_others_are_refused() {
    let join = |role| Cli::try_parse_from(["anshin", "join", "an1.x", "--role", role]);
    for good in ["data", "witness", "witness,vault", "data,vault"] {
        assert!(join(good).is_ok(), "{good}");
    }
    let error = join("witness,boss").unwrap_err().to_string();
    assert!(error.contains("data, witness or vault"), "{error}");
}

#[test]
fn names_stay_one_part_of_the_path() {
    assert_eq!(part("postgresql@15-main"), "postgresql@15-main");
    assert_eq!(part("../x?y#z "), "..%2Fx%3Fy%23z%20");
}

#[test]
fn every_command_says_what_it_does_and_run_is_hidden() {
    Cli::command().debug_assert();
    let help = Cli::command().render_help().to_string();
    assert!(!help.contains("run "), "{help}");
    insta::assert_snapshot!(help);
}
