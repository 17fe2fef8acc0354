//! What changes, one line per resource.

/// `* Start      NAME     ( node )  due to …`
pub(crate) fn line(verb: &str, subject: &str, detail: &str, reason: &str) -> String {
    let due = if reason.is_empty() { String::new() } else { format!("  due to {reason}") };
    format!("  * {verb:<10} {subject}  ( {detail} ){due}")
}
