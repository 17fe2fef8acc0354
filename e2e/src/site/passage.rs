//! A failover or move as the program recorded it.

use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Its points, in milliseconds since 1970 on the clock that all of a lab's machines share.
#[derive(Clone, Debug, Default)]
pub struct Passage {
    /// It was asked for.
    pub planned: bool,
    /// Where the service ran.
    pub from: String,
    /// The last sign of life of the lost server, or the request.
    pub at: Option<i64>,
    /// The loss was noticed.
    pub detected: Option<i64>,
    /// The promotion was proposed.
    pub decided: Option<i64>,
    /// The ledger recorded it.
    pub promoted: Option<i64>,
    /// The device was there.
    pub device: Option<i64>,
    /// The file system was mounted.
    pub mounted: Option<i64>,
    /// The address was there.
    pub address: Option<i64>,
    /// The program ran.
    pub program: Option<i64>,
}

impl Passage {
    /// The passage in `value`.
    pub fn new(value: &Value) -> Self {
        let at = value["at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
        let at = at.map(jiff::Timestamp::as_millisecond);
        let point = |name: &str| Some(at? + value[name].as_i64()?);
        Self {
            planned: value["planned"] == true,
            from: value["from"].as_str().unwrap_or_default().to_owned(),
            at,
            detected: point("detected_ms"),
            decided: point("decided_ms"),
            promoted: point("promoted_ms"),
            device: point("device_ms"),
            mounted: point("mounted_ms"),
            address: point("address_ms"),
            program: point("program_ms"),
        }
    }

    /// From `start` to one of its points; none if it was not recorded.
    pub fn since(&self, point: Option<i64>, start: SystemTime) -> Option<Duration> {
        let start = start.duration_since(UNIX_EPOCH).ok()?.as_millis();
        let start = i64::try_from(start).ok()?;
        Some(Duration::from_millis(u64::try_from(point?.saturating_sub(start)).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn points_count_from_the_beginning() {
        let passage = Passage::new(&json!({
            "planned": false, "from": "a", "at": "1970-01-01T00:00:10.5Z", "detected_ms": 1_000, "decided_ms": null
        }));
        assert_eq!((passage.at, passage.detected, passage.decided), (Some(10_500), Some(11_500), None));
        let killed = UNIX_EPOCH + Duration::from_millis(10_550);
        assert_eq!(passage.since(passage.detected, killed), Some(Duration::from_millis(950)));
        assert_eq!(passage.since(passage.decided, killed), None);
    }
}
