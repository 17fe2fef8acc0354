//! Recognises changed definitions by digests of parameters.
//!
//! The digest of a call is the MD5 of `<parameters …/>` with the parameters as sorted attributes, a space before
//! and a line feed behind, as such clusters have always written it into their histories.

use super::Actor;
use crate::digest::md5_hex;
use crate::world::{Kind, NodeIx, RscIx};
use crate::{OperationRecord, RecordStatus};
use std::collections::BTreeMap;

/// What a changed definition asks for.
enum Consequence {
    Nothing,
    Restart,
    Reload,
    Again,
}

impl<'c> Actor<'_, 'c> {
    pub(super) fn check_definitions(&mut self) {
        for at in self.world.resource_indices() {
            let rsc = &self.world[at];
            if rsc.kind != Kind::Primitive || rsc.orphan || !rsc.role.is_active() {
                continue;
            }
            for node in rsc.running_on.clone() {
                if self.world[node].online && self.world[node].unclean.is_none() {
                    self.check_on(at, node);
                }
            }
        }
    }

    fn check_on(&mut self, at: RscIx, node: NodeIx) {
        let cluster = self.world.cluster;
        let records: Vec<&OperationRecord> =
            self.histories(at, node, cluster).flat_map(|h| &h.records).collect();
        let newest_stop = records.iter().filter(|r| r.operation == "stop").map(|r| r.call_id).max();
        for record in records {
            let relevant =
                matches!(record.operation.as_str(), "monitor" | "start" | "promote" | "migrate_from");
            if !relevant
                || record.status == RecordStatus::Pending
                || newest_stop.is_some_and(|s| record.call_id >= 0 && record.call_id < s)
            {
                continue;
            }
            match self.consequence_of(at, node, record) {
                Consequence::Nothing => {}
                Consequence::Restart => {
                    if self.world[at].managed {
                        self.redefined.push(at);
                    }
                }
                Consequence::Reload => {
                    if self.world[at].managed && !self.reloading.contains(&(at, node)) {
                        self.reloading.push((at, node));
                    }
                }
                Consequence::Again => self.reschedule.push((at, node, record.interval_ms)),
            }
        }
    }

    fn consequence_of(&self, at: RscIx, node: NodeIx, record: &OperationRecord) -> Consequence {
        let Some(recorded) = record.digest.as_deref() else { return Consequence::Nothing };
        let Some(parameters) = self.call_parameters(at, node, record) else { return Consequence::Nothing };
        if digest(&parameters) == recorded {
            return Consequence::Nothing;
        }
        if record.interval_ms > 0 {
            return Consequence::Again;
        }
        match &record.restart_digest {
            Some((recorded, names)) => {
                let kept: BTreeMap<String, String> =
                    parameters.into_iter().filter(|(name, _)| names.contains(name)).collect();
                if digest(&kept) == *recorded { Consequence::Reload } else { Consequence::Restart }
            }
            None => Consequence::Restart,
        }
    }

    /// What the call would be given today; nothing if the operation is not configured any more.
    fn call_parameters(
        &self,
        at: RscIx,
        node: NodeIx,
        record: &OperationRecord,
    ) -> Option<BTreeMap<String, String>> {
        let rsc = &self.world[at];
        let config = rsc.config?;
        let mut parameters =
            config.node_parameters.get(&self.world[node].name).unwrap_or(&config.parameters).clone();
        // A probe that found the resource stands for its start.
        let name = if record.interval_ms == 0 && record.operation == "monitor" {
            "start"
        } else {
            &record.operation
        };
        let operation =
            rsc.operations.iter().find(|o| o.name == *name && o.interval_ms == record.interval_ms);
        if record.interval_ms > 0 {
            let operation = operation?;
            let timeout = operation.timeout_ms.or_else(|| {
                let text = self.world.cluster.operation_defaults.get("timeout")?;
                crate::words::milliseconds(text)
            });
            let timeout = timeout.unwrap_or(self.world.options.default_timeout_ms);
            parameters.insert("CRM_meta_timeout".into(), timeout.to_string());
        }
        if let Some(operation) = operation {
            parameters.extend(operation.parameters.clone());
        }
        Some(parameters)
    }
}

fn digest(parameters: &BTreeMap<String, String>) -> String {
    let mut text = String::from(" <parameters");
    for (name, value) in parameters {
        let escaped =
            value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        text.push_str(&format!(" {name}=\"{escaped}\""));
    }
    text.push_str("/>\n");
    md5_hex(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_no_parameters_is_the_well_known_one() {
        assert_eq!(digest(&BTreeMap::new()), "f2317cad3d54cec5d7d7aa7d0bf35cf8");
    }
}
