//! From which snapshot a service comes to an instant.

use anshin_base::Problem;
use anshin_director::{
    SnapshotId, TargetKey, UnixMillis, VaultName, catalog::SnapshotRow, record::Records, retention::Standing,
};

/// Fewer digits name nothing.
const DIGITS_MIN: usize = 4;

/// A snapshot of a service that can be brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Which.
    pub snapshot: SnapshotId,
    /// Where it is.
    pub vault: VaultName,
    /// Its content is not older than this.
    pub point: UnixMillis,
    /// When it was sealed: by then the service's program had said that it is whole.
    pub sealed: UnixMillis,
    /// Bytes in it.
    pub bytes: u64,
}

/// The snapshots of a target that the catalog and the ledger know, oldest first.
#[must_use]
pub fn bases(target: &TargetKey, rows: &[SnapshotRow], records: &Records) -> Vec<Base> {
    let of_catalog = rows
        .iter()
        .filter(|row| row.target == *target && row.forgotten.is_none() && row.standing == Standing::Good);
    let mut bases: Vec<Base> = of_catalog
        .map(|row| Base {
            snapshot: row.snapshot.clone(),
            vault: row.vault.clone(),
            // It was made with a clock that was ahead if it says that it is newer than its sealing.
            point: row.point.unwrap_or(row.sealed).min(row.sealed),
            sealed: row.sealed,
            bytes: row.bytes,
        })
        .collect();
    // The catalog follows the ledger; the newest may be on its way.
    let newest = records.targets.iter().filter(|((_, known), _)| known == target);
    for good in newest.filter_map(|(_, known)| known.last_good.as_ref()) {
        if !bases.iter().any(|base| base.snapshot == good.snapshot) {
            bases.push(Base {
                snapshot: good.snapshot.clone(),
                vault: good.vault.clone(),
                point: good.point,
                sealed: good.sealed,
                bytes: good.bytes,
            });
        }
    }
    bases.sort_by_key(|base| (base.point, base.sealed));
    bases
}

/// The one to begin with: named, or the newest that was whole at the instant.
///
/// # Errors
/// If there is none.
pub fn choose(
    target: &TargetKey,
    bases: &[Base],
    at: Option<UnixMillis>,
    named: Option<&str>,
) -> Result<Base, Problem> {
    let Some(first) = bases.first() else {
        let problem = Problem::new("snapshot-unknown", format!("there is no backup of {target} yet"));
        return Err(problem.hint("see `anshin plan list` and `anshin runs list`"));
    };
    if let Some(digits) = named {
        return by_name(target, bases, &digits.to_ascii_lowercase());
    }
    let Some(at) = at else { return Ok(bases.last().unwrap_or(first).clone()) };
    let whole = bases.iter().rev().find(|base| base.sealed <= at);
    // The end of the first backup may still be before the instant, though it was sealed later.
    let begun = || bases.iter().rev().find(|base| base.point <= at);
    whole.or_else(begun).cloned().ok_or_else(|| {
        let message =
            format!("that instant is before the first backup of {target}, of {}", text(first.point));
        Problem::new("restore-at-invalid", message).hint("what was then is not known; give a later instant")
    })
}

fn by_name(target: &TargetKey, bases: &[Base], digits: &str) -> Result<Base, Problem> {
    let mut found = bases.iter().filter(|base| base.snapshot.0.starts_with(digits));
    match (found.next(), found.next()) {
        (Some(base), None) if digits.len() >= DIGITS_MIN => Ok(base.clone()),
        _ => {
            let message = format!("`{digits}` names no snapshot of {target}, or several");
            Err(Problem::new("snapshot-unknown", message).hint("see `anshin snapshots list`"))
        }
    }
}

/// RFC 3339, in UTC.
#[must_use]
pub fn text(at: UnixMillis) -> String {
    jiff::Timestamp::from_millisecond(at.0).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(id: &str, point: i64, sealed: i64) -> Base {
        Base {
            snapshot: SnapshotId(id.into()),
            vault: "main".into(),
            point: UnixMillis(point),
            sealed: UnixMillis(sealed),
            bytes: 1,
        }
    }

    fn chosen(at: Option<i64>, named: Option<&str>) -> Result<String, String> {
        let bases = [base("aaaa1", 100, 200), base("bbbb2", 300, 400), base("bbbb3", 500, 600)];
        let chosen = choose(&"service/db".into(), &bases, at.map(UnixMillis), named);
        chosen.map(|base| base.snapshot.0).map_err(|problem| problem.code)
    }

    #[test]
    fn the_newest_snapshot_that_was_whole_at_the_instant_is_taken() {
        assert_eq!(chosen(Some(650), None).unwrap(), "bbbb3");
        assert_eq!(chosen(Some(550), None).unwrap(), "bbbb2", "the third was not whole yet");
        assert_eq!(chosen(Some(150), None).unwrap(), "aaaa1", "there is no earlier one");
        assert_eq!(chosen(None, None).unwrap(), "bbbb3");
        assert_eq!(chosen(Some(99), None).unwrap_err(), "restore-at-invalid");
        assert!(choose(&"service/db".into(), &[], None, None).is_err());
    }

    #[test]
    fn a_snapshot_is_named_by_its_first_digits() {
        assert_eq!(chosen(Some(650), Some("AAAA")).unwrap(), "aaaa1");
        for unknown in ["aaa", "bbbb", "cccc"] {
            assert_eq!(chosen(None, Some(unknown)).unwrap_err(), "snapshot-unknown");
        }
    }
}
