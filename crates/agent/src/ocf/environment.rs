//! The environment an OCF agent runs in.

use crate::resource::{Operation, Resource};
use anshin_base::Millis;
use std::path::{Path, PathBuf};

/// Starts the line on standard error in which an agent says why it failed.
const EXIT_REASON_PREFIX: &str = "ocf-exit-reason:";
/// Longest reason shown to users, as in Pacemaker.
const EXIT_REASON_LENGTH_MAX: usize = 128;
/// Agents compare this with the versions at which Pacemaker's features appeared; 3.19 has all that agents ask for.
const CRM_FEATURE_SET: &str = "3.19.0";

/// What of the environment is the same for all operations on a node.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Usually `/usr/lib/ocf`.
    pub root: PathBuf,
    /// Where agents keep their state until the next boot; must exist.
    pub state_dir: PathBuf,
    /// The directory of anshin's own helper commands, found before all others.
    pub helpers: PathBuf,
    /// This node's name.
    pub node: String,
}

impl Environment {
    /// Where the agent of `resource` should be.
    #[must_use]
    pub fn agent(&self, resource: &Resource) -> PathBuf {
        self.root.join("resource.d").join(resource.provider()).join(&resource.kind)
    }

    /// All variables of one operation. Nothing else is inherited, so that an agent behaves the same under any
    /// daemon and shell.
    #[must_use]
    pub fn variables(
        &self,
        resource: &Resource,
        operation: &Operation,
        timeout: Millis,
    ) -> Vec<(String, String)> {
        let path = |path: &Path| path.display().to_string();
        let mut set: Vec<(String, String)> = [
            ("PATH", format!("{}:{}", self.helpers.display(), crate::helpers::SYSTEM_PATH.join(":"))),
            ("LC_ALL", "C".to_owned()),
            ("HOME", "/root".to_owned()),
            ("OCF_ROOT", path(&self.root)),
            ("OCF_RA_VERSION_MAJOR", "1".to_owned()),
            ("OCF_RA_VERSION_MINOR", "1".to_owned()),
            ("OCF_RESOURCE_INSTANCE", resource.name.clone()),
            ("OCF_RESOURCE_TYPE", resource.kind.clone()),
            ("OCF_RESOURCE_PROVIDER", resource.provider().to_owned()),
            ("OCF_EXIT_REASON_PREFIX", EXIT_REASON_PREFIX.to_owned()),
            ("OCF_OUTPUT_FORMAT", "text".to_owned()),
            ("OCF_RESKEY_crm_feature_set", CRM_FEATURE_SET.to_owned()),
            ("HA_RSCTMP", path(&self.state_dir)),
            // Agents call Pacemaker's tools by this directory as well as by PATH.
            ("HA_SBIN_DIR", path(&self.helpers)),
            // Without a facility ocf_log writes to standard error, which is where it is read from.
            ("HA_LOGFACILITY", "none".to_owned()),
            ("HA_LOGD", "no".to_owned()),
            ("HA_debug", "0".to_owned()),
            ("PCMK_service", "anshin".to_owned()),
            ("ANSHIN_NODE_NAME", self.node.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if operation.action == crate::resource::Action::MetaData {
            return set;
        }
        set.push(("OCF_CHECK_LEVEL".to_owned(), operation.depth.to_string()));
        for (name, value) in &resource.parameters {
            set.push((format!("OCF_RESKEY_{name}"), value.clone()));
        }
        for (name, value) in &resource.meta {
            set.push((meta(name), value.clone()));
        }
        set.push((meta("name"), operation.action.word().to_owned()));
        // Always set: agents take a monitor whose interval is 0 for a probe.
        set.push((meta("interval"), operation.interval.0.to_string()));
        set.push((meta("timeout"), timeout.0.to_string()));
        set.push((meta("on_node"), self.node.clone()));
        set.push((meta("on_node_uuid"), self.node.clone()));
        set
    }
}

fn meta(name: &str) -> String {
    format!("OCF_RESKEY_CRM_meta_{}", name.replace('-', "_"))
}

/// The reason an agent gave on standard error: the last one, cut to what a user reads in one line.
#[must_use]
pub fn exit_reason(stderr: &str) -> Option<String> {
    let (_, rest) = stderr.rsplit_once(EXIT_REASON_PREFIX)?;
    let reason = rest.lines().next()?.trim();
    (!reason.is_empty()).then(|| reason.chars().take(EXIT_REASON_LENGTH_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Action, Class};
    use std::collections::BTreeMap;

    fn environment() -> Environment {
        Environment {
            root: "/usr/lib/ocf".into(),
            state_dir: "/run/resource-agents".into(),
            helpers: "/run/anshin/helpers".into(),
            node: "alpha".to_owned(),
        }
    }

    #[test]
    fn an_operation_carries_parameters_meta_attributes_and_its_own_times() {
        let mut resource = Resource::new("db", Class::Ocf, "pgsql").with("pgport", "5433");
        resource.meta.insert("migration-threshold".to_owned(), "3".to_owned());
        let operation = Operation::new(Action::Monitor).every(Millis(10_000));
        let set: BTreeMap<_, _> =
            environment().variables(&resource, &operation, Millis(30_000)).into_iter().collect();
        let expected = [
            ("OCF_RESKEY_pgport", "5433"),
            ("OCF_RESKEY_CRM_meta_migration_threshold", "3"),
            ("OCF_RESKEY_CRM_meta_interval", "10000"),
            ("OCF_RESKEY_CRM_meta_timeout", "30000"),
            ("OCF_RESKEY_CRM_meta_on_node", "alpha"),
            ("OCF_RESOURCE_INSTANCE", "db"),
            ("OCF_RESOURCE_PROVIDER", "heartbeat"),
            ("OCF_CHECK_LEVEL", "0"),
            ("LC_ALL", "C"),
        ];
        for (name, value) in expected {
            assert_eq!(set.get(name).map(String::as_str), Some(value), "{name}");
        }
    }

    #[test]
    fn a_description_is_asked_for_without_parameters() {
        let resource = Resource::new("db", Class::Ocf, "pgsql").with("pgport", "5433");
        let set = environment().variables(&resource, &Operation::new(Action::MetaData), Millis(1));
        assert!(set.iter().all(|(name, _)| name != "OCF_RESKEY_pgport"));
    }

    #[test]
    fn the_last_reason_counts_and_is_cut_to_a_line() {
        let stderr = "x\nocf-exit-reason:first\nocf-exit-reason: second \nlater noise\n";
        assert_eq!(exit_reason(stderr).as_deref(), Some("second"));
        assert_eq!(exit_reason("nothing said"), None);
        assert_eq!(exit_reason("ocf-exit-reason:\n"), None);
        let long = format!("ocf-exit-reason:{}", "a".repeat(1000));
        assert_eq!(exit_reason(&long).unwrap().len(), 128);
    }
}
