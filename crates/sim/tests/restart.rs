//! A replica whose process dies between a write and its flush, is started again and then loses power.

use anshin_base::{GroupId, Millis, Mono, ReplicaId, SessionId};
use anshin_mirror::{Config, Format, Input, Output, Region, Replica, superblock::Superblock};
use anshin_sim::{disk::Disk, rng::Rng};
use std::collections::VecDeque;

const VOLUME_BYTES: u64 = 1 << 20;
const BOTH: usize = 8_192;

fn made() -> [Disk; 2] {
    let format = Format {
        volume_bytes: VOLUME_BYTES,
        group: GroupId(1),
        replica: ReplicaId(1),
        hot_extents: 7,
        zeroed: true,
    };
    let image = format.image().expect("a small volume can be laid out");
    let mut meta = Disk::new(image.meta_bytes);
    for (offset, bytes) in image.writes {
        meta.place(offset, &bytes);
    }
    [Disk::new(VOLUME_BYTES), meta]
}

/// Starts a process and carries out what it asks of its disks, until `stop` says so of the next command or nothing is asked any more.
fn start(areas: &mut [Disk; 2], session: u64, mut stop: impl FnMut(&Output) -> bool) {
    let config = Config {
        volume_bytes: VOLUME_BYTES,
        session: SessionId(session),
        peer_silent: Millis(1_000),
        lease: Millis(900),
        drift_permille: 20,
        heartbeat: Millis(100),
        hot_extents: 7,
    };
    let mut out = Vec::new();
    let mut replica = Replica::open(config, Mono(0), &mut out);
    let mut asked: VecDeque<Output> = out.into();
    while let Some(output) = asked.pop_front() {
        if stop(&output) {
            return;
        }
        let area = |region| usize::from(region == Region::Meta);
        let (token, data) = match output {
            Output::DiskRead { token, region, offset, length } => {
                (token, areas[area(region)].read(offset, length as usize))
            }
            Output::DiskWrite { token, region, offset, data } => {
                let id = areas[area(region)].submit(offset, data);
                areas[area(region)].complete(id);
                (token, bytes::Bytes::new())
            }
            Output::DiskFlush { token, region } => {
                let flush = areas[area(region)].flush();
                areas[area(region)].flushed(&flush);
                (token, bytes::Bytes::new())
            }
            _ => continue,
        };
        let mut out = Vec::new();
        replica.handle(Mono(0), Input::DiskDone { token, result: Ok(data) }, &mut out);
        asked.extend(out);
    }
}

fn sequence(meta: &Disk) -> Option<u64> {
    Superblock::newest(&meta.read_durable(0, BOTH as u64)).ok().map(|found| found.sequence)
}

#[test]
fn a_second_start_overwrites_no_superblock_while_the_newest_is_not_on_the_disk() {
    let mut areas = made();
    start(&mut areas, 1, |_| false);
    let confirmed = sequence(&areas[1]).unwrap();
    // The second process dies when its superblock is written, but not flushed.
    let mut written = false;
    start(&mut areas, 2, |output| {
        written |= matches!(output, Output::DiskWrite { offset: ..8_192, .. });
        written && matches!(output, Output::DiskFlush { .. })
    });
    assert!(written && sequence(&areas[1]) == Some(confirmed), "the superblock is in the cache alone");
    // The third one loses power before its own is flushed.
    let mut written = false;
    start(&mut areas, 3, |output| {
        let before = written;
        written |= matches!(output, Output::DiskWrite { offset: ..8_192, .. });
        before && matches!(output, Output::DiskFlush { .. })
    });
    for seed in 0..200 {
        let mut after = areas[1].clone();
        after.power_lost(&mut Rng::new(seed));
        let found = sequence(&after);
        assert!(found >= Some(confirmed), "seed {seed}: {found:?} after {confirmed} was confirmed");
    }
}
