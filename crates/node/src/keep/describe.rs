//! What a snapshot says about itself, for those who have the key: in JSON, so that later versions can say more.

use anshin_base::Problem;
use serde::{Deserialize, Serialize};

/// What kind of thing was captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Captured {
    /// Trees of files.
    #[default]
    Files,
    /// A block device or disk image.
    Image,
    /// What a program printed.
    Stream,
}

/// The description of a snapshot. Fields are only added; a reader ignores those that it does not know.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Description {
    /// The machine that was read.
    pub host: String,
    /// What kind of thing was captured.
    pub captured: Captured,
    /// What was asked for, as it appears in the snapshot.
    pub paths: Vec<String>,
    /// Patterns of what was left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<String>,
    /// Tags, for retention.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// How many things did not go as they should.
    #[serde(skip_serializing_if = "is_zero")]
    pub issues: u64,
    /// The program that wrote it.
    pub program: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Description {
    /// The bytes that are encrypted into the snapshot.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>, Problem> {
        serde_json::to_vec(self).map_err(|error| {
            Problem::new("description", format!("the description cannot be written: {error}"))
        })
    }

    /// Reads what [`Self::encode`] wrote. What is not understood says nothing: it is no reason not to restore.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_written_like_this_and_more_is_ignored() {
        let description = Description {
            host: "a".into(),
            paths: vec!["/etc".into()],
            program: "anshin 0.1.0".into(),
            ..Description::default()
        };
        let text = r#"{"host":"a","captured":"files","paths":["/etc"],"program":"anshin 0.1.0"}"#;
        assert_eq!(String::from_utf8(description.encode().unwrap()).unwrap(), text);
        let later = text.replace(r#""host""#, r#""later":7,"host""#);
        assert_eq!(Description::decode(later.as_bytes()), description);
        assert_eq!(Description::decode(b"garbage"), Description::default());
    }
}
