//! Volume processes that live but do nothing.

use super::*;

/// Whether the node's own sign of life passes on the word of this group's replica.
fn passes_on(known: &Daemon, group: GroupId) -> bool {
    let beats = known.nodes.iter().filter_map(|node| node.beat.as_ref());
    beats.flat_map(|beat| &beat.sign.reports).any(|report| report.group == group)
}

#[tokio::test]
async fn the_last_word_of_a_volume_process_that_stands_still_is_passed_on_no_more() {
    let (root, authority) = site();
    let nodes = cluster(&root.0, &authority, 1).await;
    let mut daemon = nodes[0].daemon().await;
    let [still, silent, lively] = [GroupId(1), GroupId(2), GroupId(3)];
    // A build that says nothing twice: nothing follows from its silence.
    let _silent = VolumeProcess::start_of(&nodes[0], silent, 22, 1).await;
    let mut one = VolumeProcess::start_of(&nodes[0], still, 11, 1).await;
    let report = one.report.clone();
    one.say(&FromVolume::Report(report.clone())).await;
    let mut other = VolumeProcess::start_of(&nodes[0], lively, 33, 1).await;
    let repeats = tokio::spawn(async move {
        loop {
            let report = other.report.clone();
            other.say(&FromVolume::Report(report)).await;
            sleep(Duration::from_millis(500)).await;
        }
    });
    let all = |known: &Daemon| [still, silent, lively].iter().all(|group| passes_on(known, *group));
    daemon.until("all three", |known, _| all(known).then_some(())).await;
    daemon
        .until("the end of the first one's word", |known, _| (!passes_on(known, still)).then_some(()))
        .await;
    assert!(passes_on(&daemon, silent) && passes_on(&daemon, lively));
    one.say(&FromVolume::Report(report)).await;
    daemon.until("its word again", |known, _| all(known).then_some(())).await;
    repeats.abort();
}
