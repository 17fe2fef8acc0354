//! A few seeds of every scenario; `anshin-sim run` runs as many as wanted.

use anshin_sim::{prove, run, scenario::SCENARIOS, scenario::Scenario};

#[test]
fn no_scenario_violates_anything_in_its_first_seeds() {
    for scenario in SCENARIOS {
        for seed in 0..15 {
            let report = run::seed(seed, scenario, false);
            assert_eq!(
                report.violations, [""; 0],
                "anshin-sim run --scenario {} --seed {seed}",
                scenario.name
            );
        }
    }
}

#[test]
fn one_seed_is_one_history() {
    let scenario = Scenario::named("pair").unwrap();
    let hashes: Vec<u64> = (0..4).map(|seed| run::seed(seed, scenario, false).hash).collect();
    let again: Vec<u64> = (0..4).map(|seed| run::seed(seed, scenario, true).hash).collect();
    assert_eq!(hashes, again);
    assert_ne!(hashes[0], hashes[1]);
}

#[test]
fn a_dirty_record_that_shrinks_because_of_a_flag_is_found_by_i4() {
    for name in ["trust-reconnect", "clear-dirty-at-connect", "trust-newcomer"] {
        let found = prove::find(&prove::bug(name).unwrap(), 0, 200, 1).unwrap();
        assert!(found.violation.starts_with("I4: "), "{name}: {}", found.violation);
    }
}

#[test]
fn a_voter_that_forgot_what_it_confirmed_is_found() {
    let bug = prove::bug("trust-memory").unwrap();
    assert!(prove::find(&bug, 0, 50, 1).is_some());
}

#[test]
fn a_primary_that_acknowledges_alone_is_found() {
    let bug = prove::bug("acknowledge-alone").unwrap();
    assert!(prove::find(&bug, 0, 50, 1).is_some());
}

#[test]
fn a_primary_that_answers_while_a_removal_is_in_doubt_is_found() {
    let bug = prove::bug("answer-in-doubt").unwrap();
    let found = prove::find(&bug, 0, 50, 1).unwrap();
    assert!(found.violation.starts_with("I1: "), "{}", found.violation);
}

/// Each found something in its time; most histories have changed since, but they are cheap.
#[test]
fn the_seeds_that_once_were_red_are_green() {
    let seeds = [
        ("members", 41_718),
        ("extents", 76_639),
        ("images", 239_748),
        ("strikes", 1_000_324),
        ("extents", 386_656),
        ("extents", 99_673),
        ("voters", 644_315),
        ("members", 62_304),
        ("stalls", 136_052),
    ];
    for (name, seed) in seeds {
        let report = run::seed(seed, Scenario::named(name).unwrap(), false);
        assert_eq!(report.violations, [""; 0], "anshin-sim run --scenario {name} --seed {seed}");
    }
}
