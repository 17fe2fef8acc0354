//! What backups do to the posture.

use super::*;

fn facts(name: &str) -> Facts {
    let path = format!("{}/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_site_whose_backups_are_well_is_green_and_has_no_limit_of_that_kind() {
    let status = SiteStatus::from_facts(facts("backed-up"));
    assert_eq!(status.posture.level, Level::Green, "{:?}", status.posture);
    assert!(status.limits.iter().all(|limit| limit.subject != NO_BACKUP));
    let without = SiteStatus::from_facts(facts("healthy"));
    assert!(
        without.limits.iter().any(|limit| limit.subject == NO_BACKUP),
        "and says so where there are none"
    );
}

#[test]
fn a_backup_that_is_amber_or_red_makes_the_site_so_and_is_named() {
    for (level, start) in [(Level::Amber, "Everything runs, but not all is well: "), (Level::Red, "")] {
        let mut facts = facts("backed-up");
        facts.backups.things[0].level = level;
        facts.backups.things[0].reasons = vec!["it was not backed up yet".into()];
        let posture = posture(&facts);
        assert_eq!(posture.level, level);
        let expected = format!("{start}backup of service/postgresql: it was not backed up yet.");
        assert_eq!(posture.sentence, expected);
    }
}

#[test]
fn a_failing_backup_does_not_hide_that_a_service_stands() {
    let mut facts = facts("backup-failing");
    facts.services[0].state = RunState::Failed;
    let posture = posture(&facts);
    assert_eq!(posture.level, Level::Red);
    assert!(posture.sentence.starts_with("postgresql failed"), "{}", posture.sentence);
    assert!(posture.sentence.contains("more below"), "{}", posture.sentence);
}

#[test]
fn the_cause_of_amber_is_what_could_stop_before_what_could_be_lost() {
    let mut facts = facts("backed-up");
    facts.backups.things[0].level = Level::Amber;
    facts.nodes[2].state = NodeState::Offline;
    let sentence = posture(&facts).sentence;
    assert!(sentence.contains("node c does not answer"), "{sentence}");
}

/// I17: whatever is known of backups, a node that is cut off calls none of them well.
#[test]
fn without_quorum_no_backup_is_called_well() {
    let mut facts = facts("no-quorum");
    facts.backups = self::facts("backed-up").backups;
    let lines = posture(&facts).lines;
    let line = lines.iter().find(|line| line.subject == "backup of service/postgresql").unwrap();
    assert_eq!(line.level, Level::Unknown);
}
