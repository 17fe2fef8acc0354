use super::*;
use crate::engine::message::{LogEntry, Payload};
use anshin_base::{LedgerEpoch, NodeId, VoterId};

const AREA: u64 = 64 << 10;

fn identity() -> Record {
    Record::Identity(Identity { site: 1, node: NodeId(2), voter: VoterId(3), epoch: LedgerEpoch(1) })
}

fn entry(index: u64, size: usize) -> Record {
    let payload = Payload::Proposal(vec![index as u8; size]);
    Record::Entries(vec![LogEntry { index, term: 1, payload }])
}

/// Two areas in memory.
#[derive(Clone)]
struct Disk {
    a: Vec<u8>,
    b: Vec<u8>,
}

impl Disk {
    fn new() -> Self {
        Self { a: vec![0; AREA as usize], b: vec![0; AREA as usize] }
    }

    fn run(&mut self, ops: &[DiskOp]) {
        for op in ops {
            if let DiskOp::Write { area, offset, bytes } = op {
                self.write(*area, *offset as usize, bytes);
            }
        }
    }

    fn write(&mut self, area: Area, offset: usize, bytes: &[u8]) {
        let area = if area == Area::A { &mut self.a } else { &mut self.b };
        area[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn recover(&self) -> Result<Recovered, RecoverError> {
        recover(&self.a, &self.b)
    }
}

fn created() -> (Journal, Disk) {
    let mut disk = Disk::new();
    let (journal, ops) = Journal::create(AREA, &[identity()]).unwrap();
    disk.run(&ops);
    (journal, disk)
}

#[test]
fn what_was_written_is_recovered_in_order() {
    let (mut journal, mut disk) = created();
    let records: Vec<Record> = (2..6).map(|index| entry(index, 3_000)).collect();
    for record in &records {
        disk.run(&journal.append(std::slice::from_ref(record)).unwrap());
    }
    let found = disk.recover().unwrap();
    assert_eq!(found.records[1..], records);
    assert_eq!(found.journal, journal);
    assert_eq!(found.ops, []);
}

#[test]
fn version_1_has_these_bytes() {
    let (mut journal, mut disk) = created();
    disk.run(&journal.append(&[entry(2, 4)]).unwrap());
    let mut bytes = disk.a[..64].to_vec();
    bytes.extend(&disk.a[BLOCK..BLOCK + 64]);
    bytes.extend(&disk.a[2 * BLOCK..2 * BLOCK + 64]);
    crate::golden::compare("log-v1.bin", &bytes);
}

#[test]
fn every_torn_tail_is_dropped_and_nothing_else() {
    let (mut journal, mut disk) = created();
    disk.run(&journal.append(&[entry(2, 100)]).unwrap());
    let good = disk.recover().unwrap();
    let ops = journal.append(&[entry(3, 9_000)]).unwrap();
    let DiskOp::Write { area, offset, bytes } = &ops[0] else { panic!() };
    let sectors = bytes.len() / 512;
    // Every prefix of sectors, every suffix, and every single sector left out.
    let tears = (0..sectors).flat_map(|cut| {
        let prefix = move |at: usize| at < cut;
        let suffix = move |at: usize| at > cut;
        let hole = move |at: usize| at != cut;
        [
            (0..sectors).filter(|at| prefix(*at)).collect::<Vec<_>>(),
            (0..sectors).filter(|at| suffix(*at)).collect(),
            (0..sectors).filter(|at| hole(*at)).collect(),
        ]
    });
    let used = 36 + 9_000;
    for written in tears {
        let mut torn = disk.clone();
        for sector in &written {
            let from = sector * 512;
            torn.write(*area, *offset as usize + from, &bytes[from..from + 512]);
        }
        let whole = (0..sectors).all(|at| written.contains(&at) || at * 512 >= used);
        let found = torn.recover().unwrap();
        assert_eq!(found.records.len(), good.records.len() + usize::from(whole), "{written:?}");
        if !whole {
            // The next batch goes over the torn one and is found.
            let mut journal = found.journal;
            torn.run(&journal.append(&[entry(4, 10)]).unwrap());
            assert_eq!(torn.recover().unwrap().records.last(), Some(&entry(4, 10)));
        }
    }
}

#[test]
fn damage_before_the_tail_means_rejoin() {
    let (mut journal, mut disk) = created();
    for index in 2..6 {
        disk.run(&journal.append(&[entry(index, 100)]).unwrap());
    }
    // Base and every batch but the last; each byte that carries something.
    for block in 1..5 {
        for at in [0, 4, 9, 17, 25, 29, 33, 36, 40] {
            let mut broken = disk.clone();
            broken.a[block * BLOCK + at] ^= 1;
            let result = broken.recover();
            assert!(matches!(result, Err(RecoverError::Damaged(_))), "block {block} byte {at}: {result:?}");
        }
    }
}

#[test]
fn a_full_segment_goes_on_in_the_other_area() {
    let (mut journal, mut disk) = created();
    let mut rotations = 0;
    for index in 2..100 {
        match journal.append(&[entry(index, 5_000)]) {
            Some(ops) => disk.run(&ops),
            None => {
                rotations += 1;
                disk.run(&journal.rotate(&[identity(), entry(index, 10)]).unwrap());
            }
        }
        let found = disk.recover().unwrap();
        assert_eq!(found.journal, journal);
        let Some(Record::Entries(last)) = found.records.last() else { panic!() };
        assert_eq!(last[0].index, index);
    }
    assert!(rotations > 3);
}

#[test]
fn a_crash_at_every_step_of_a_rotation_keeps_one_whole_segment() {
    let (mut journal, mut disk) = created();
    disk.run(&journal.append(&[entry(2, 100)]).unwrap());
    for round in 0..3 {
        let before = disk.recover().unwrap();
        let ops = journal.rotate(&[identity(), entry(50 + round, 6_000)]).unwrap();
        for step in 0..=ops.len() {
            let mut crashed = disk.clone();
            crashed.run(&ops[..step]);
            // The step that was under way is torn in the middle.
            if let Some(DiskOp::Write { area, offset, bytes }) = ops.get(step) {
                crashed.write(*area, *offset as usize, &bytes[..512]);
            }
            let found = crashed.recover().unwrap();
            let new = found.records.last() == Some(&entry(50 + round, 6_000));
            assert!(new || found.records == before.records, "step {step}");
            // What recovery asks for makes the next one ask for nothing.
            crashed.run(&found.ops);
            assert_eq!(crashed.recover().unwrap().ops, []);
        }
        disk.run(&ops);
    }
}

#[test]
fn a_lost_header_of_the_newest_segment_means_rejoin() {
    let (mut journal, mut disk) = created();
    disk.run(&journal.rotate(&[identity(), entry(9, 10)]).unwrap());
    disk.b[..BLOCK].fill(0);
    assert!(matches!(disk.recover(), Err(RecoverError::Damaged(_))));
}

#[test]
fn an_empty_disk_holds_no_ledger() {
    assert_eq!(Disk::new().recover(), Err(RecoverError::Empty));
}

#[test]
fn a_base_that_outgrows_the_area_is_refused() {
    let (mut journal, _) = created();
    let before = journal.clone();
    assert!(journal.rotate(&[entry(1, 60_000)]).is_err());
    assert_eq!(journal, before);
}
