//! From the time on the wall to the instant it happens at.

use crate::time::UnixMillis;
use jiff::{
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};

/// The instant at which the wall shows `at`. Inside a gap: the first instant after it; where the wall shows it twice:
/// the first time. None only beyond the years that can be represented.
///
/// Never decreases as `at` grows, which the search for the next occurrence rests on.
pub(crate) fn instant(at: DateTime, zone: &TimeZone) -> Option<UnixMillis> {
    let ambiguous = zone.to_ambiguous_zoned(at);
    let timestamp = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(at).ok()?,
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(at).ok()?,
        AmbiguousOffset::Gap { after, .. } => {
            // With the offset of after the gap, a time inside it is an instant before the change; the change is the
            // next one from there.
            let inside = after.to_timestamp(at).ok()?;
            zone.following(inside).next()?.timestamp()
        }
    };
    Some(timestamp.into())
}
