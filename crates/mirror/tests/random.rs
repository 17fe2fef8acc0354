//! Many short random histories; complements the large simulator with a quick run.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod histories;
mod world;

use histories::history;
use world::Bugs;

#[test]
fn random_histories_of_two_replicas_keep_what_was_acknowledged() {
    run(2);
}

#[test]
fn random_histories_of_three_replicas_keep_what_was_acknowledged() {
    run(3);
}

fn run(count: usize) {
    // ANSHIN_SEED runs one history, ANSHIN_SEEDS more of them.
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("ANSHIN_SEED") {
        return history(seed, count, Bugs::default());
    }
    for seed in 0..number("ANSHIN_SEEDS").unwrap_or(40) {
        if let Err(panic) = std::panic::catch_unwind(|| history(seed, count, Bugs::default())) {
            eprintln!("ANSHIN_SEED={seed} with {count} replicas");
            std::panic::resume_unwind(panic);
        }
    }
}
