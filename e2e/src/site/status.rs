//! What `anshin status --json` says, by the few questions that checks ask.

use super::Passage;
use serde_json::Value;
use std::time::Duration;

/// A status as it came.
#[derive(Clone, Debug)]
pub struct Status(Value);

/// What resyncs into a copy took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resynced {
    /// How many ended.
    pub count: u64,
    /// Bytes compared by the last one.
    pub compared: u64,
    /// Bytes sent by the last one.
    pub sent: u64,
}

/// One voter of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Its number.
    pub id: u64,
    /// Whether it counts now.
    pub present: bool,
    /// What it is doing.
    pub state: String,
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

impl Status {
    /// The status in `value`.
    pub fn new(value: Value) -> Self {
        Self(value)
    }

    /// True if it says that any one server may die now.
    pub fn green(&self) -> bool {
        self.0["posture"]["level"] == "green"
    }

    /// The posture in one sentence.
    pub fn sentence(&self) -> String {
        text(&self.0["posture"]["sentence"]).unwrap_or_default()
    }

    /// True if the node that answered has a quorum.
    pub fn quorate(&self) -> bool {
        self.0["quorum"]["have"] == true && self.0["quorum"]["stale"] != true
    }

    /// Why, by its own facts, nothing may be called protected; none if every copy is known to be whole.
    pub fn doubt(&self) -> Option<String> {
        if !self.quorate() {
            return Some("it has no quorum".to_owned());
        }
        let Some(volume) = self.volumes().next() else { return Some("there is no volume".to_owned()) };
        let members = strings(&volume["in_sync"]);
        if members.len() < 2 {
            return Some(format!("only {members:?} are in sync"));
        }
        let replicas = volume["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
        replicas.iter().find_map(|replica| {
            let (node, state) = (text(&replica["node"])?, text(&replica["state"])?);
            let whole = state == "primary" || (state == "in-sync" && replica["behind_bytes"] == 0);
            (!whole || !members.contains(&node)).then(|| format!("the copy on {node} is {state}"))
        })
    }

    fn volumes(&self) -> impl Iterator<Item = &Value> {
        self.0["volumes"].as_array().into_iter().flatten()
    }

    fn service(&self) -> Option<&Value> {
        self.0["services"].as_array()?.first()
    }

    /// The nodes in the first volume's in-sync set.
    pub fn in_sync(&self) -> Vec<String> {
        self.volumes().next().map(|volume| strings(&volume["in_sync"])).unwrap_or_default()
    }

    /// The node of the first volume's primary.
    pub fn primary(&self) -> Option<String> {
        text(&self.volumes().next()?["primary"])
    }

    /// Why the first volume's writes wait, if they do.
    pub fn suspended(&self) -> Option<String> {
        text(&self.volumes().next()?["suspended"])
    }

    /// State of one node's copy of the first volume.
    pub fn replica_state(&self, node: &str) -> Option<String> {
        let replicas = self.volumes().next()?["replicas"].as_array()?;
        text(&replicas.iter().find(|replica| replica["node"] == node)?["state"])
    }

    /// What resyncs into one node's copy of the first volume took; none if there was none.
    pub fn resynced(&self, node: &str) -> Option<Resynced> {
        let replicas = self.volumes().next()?["replicas"].as_array()?;
        let resynced = &replicas.iter().find(|replica| replica["node"] == node)?["resynced"];
        let number = |name: &str| resynced[name].as_u64();
        Some(Resynced {
            count: number("count")?,
            compared: number("last_compared_bytes")?,
            sent: number("last_sent_bytes")?,
        })
    }

    /// The voter of a node.
    pub fn voter(&self, node: &str) -> Option<Voter> {
        let voters = self.0["quorum"]["voters"].as_array()?;
        let voter = voters.iter().find(|voter| voter["node"] == node)?;
        Some(Voter {
            id: voter["id"].as_u64()?,
            present: voter["present"] == true,
            state: text(&voter["state"])?,
        })
    }

    /// Failovers and moves, newest first.
    pub fn passages(&self) -> Vec<Passage> {
        self.0["passages"].as_array().into_iter().flatten().map(Passage::new).collect()
    }

    /// For how long something may last that the site does not protect from; none if it does not say so.
    pub fn limit_bound(&self, subject: &str) -> Option<Duration> {
        let mut limits = self.0["limits"].as_array()?.iter();
        let limit = limits.find(|limit| limit["subject"] == subject)?;
        limit["bound_ms"].as_u64().map(Duration::from_millis)
    }

    /// True if a volume of that name exists.
    pub fn has_volume(&self, name: &str) -> bool {
        self.volumes().any(|volume| volume["name"] == name)
    }

    /// True if there is a service.
    pub fn has_service(&self) -> bool {
        self.service().is_some()
    }

    /// The first service's name.
    pub fn service_name(&self) -> Option<String> {
        text(&self.service()?["name"])
    }

    /// Where the first service runs, if it does.
    pub fn service_node(&self) -> Option<String> {
        let service = self.service()?;
        if service["state"] == "running" { text(&service["node"]) } else { None }
    }

    /// What happened last, newest first, as lines.
    pub fn recent(&self) -> Vec<String> {
        let happenings = self.0["recent"].as_array().into_iter().flatten();
        let line = |event: &Value| {
            let part = |name: &str| text(&event[name]).unwrap_or_default();
            format!("{} {} {} ({})", part("at"), part("node"), part("what"), part("why"))
        };
        happenings.map(line).collect()
    }

    /// Names of the nodes that it calls online.
    pub fn online(&self) -> Vec<String> {
        let nodes = self.0["nodes"].as_array().into_iter().flatten();
        nodes.filter(|node| node["state"] == "online").filter_map(|node| text(&node["name"])).collect()
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(state: &str, behind: Option<u64>, members: &[&str]) -> Status {
        Status::new(json!({
            "posture": { "level": "green", "sentence": "" },
            "quorum": { "have": true, "stale": false },
            "volumes": [{ "name": "data", "in_sync": members, "replicas": [
                { "node": "a", "state": "primary" },
                { "node": "b", "state": state, "behind_bytes": behind },
            ]}],
        }))
    }

    #[test]
    fn only_copies_known_to_be_whole_leave_no_doubt() {
        assert_eq!(status("in-sync", Some(0), &["a", "b"]).doubt(), None);
        for doubtful in [
            status("in-sync", None, &["a", "b"]),
            status("in-sync", Some(512), &["a", "b"]),
            status("resyncing", Some(0), &["a", "b"]),
            status("unknown", None, &["a", "b"]),
            status("in-sync", Some(0), &["a"]),
            Status::new(json!({})),
        ] {
            assert!(doubtful.doubt().is_some());
        }
    }
}
