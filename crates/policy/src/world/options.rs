//! Site-wide options with their defaults.

use crate::words;
use crate::{Cluster, QuorumPolicy};

/// How nodes are chosen among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placing {
    Default,
    Utilization,
    Balanced,
    Minimal,
}

/// Options as this run uses them.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) fencing: bool,
    pub(crate) fence_action: String,
    pub(crate) startup_fencing: bool,
    pub(crate) have_watchdog: bool,
    pub(crate) quorum: bool,
    pub(crate) quorum_policy: QuorumPolicy,
    pub(crate) symmetric: bool,
    pub(crate) maintenance: bool,
    pub(crate) managed_default: bool,
    pub(crate) stop_all: bool,
    pub(crate) stop_orphans: bool,
    pub(crate) cancel_orphan_actions: bool,
    pub(crate) probe: bool,
    pub(crate) shutdown_lock: bool,
    pub(crate) shutdown_lock_limit_s: i64,
    pub(crate) placing: Placing,
    pub(crate) default_timeout_ms: u64,
    pub(crate) stonith_timeout_ms: u64,
}

impl Options {
    pub(crate) fn read(cluster: &Cluster) -> Self {
        let text = |names: &[&str]| names.iter().find_map(|n| cluster.properties.get(*n)).map(String::as_str);
        let flag = |names: &[&str], default: bool| text(names).and_then(words::boolean).unwrap_or(default);
        let quorum_policy = match text(&["no-quorum-policy"]).map(str::to_ascii_lowercase).as_deref() {
            Some("ignore") => QuorumPolicy::Ignore,
            Some("freeze") => QuorumPolicy::Freeze,
            Some("demote") => QuorumPolicy::Demote,
            Some("fence" | "suicide") if flag(&["stonith-enabled", "fencing-enabled"], true) => {
                QuorumPolicy::Fence
            }
            _ => QuorumPolicy::Stop,
        };
        let placing = match text(&["placement-strategy"]) {
            Some("utilization") => Placing::Utilization,
            Some("balanced") => Placing::Balanced,
            Some("minimal") => Placing::Minimal,
            _ => Placing::Default,
        };
        let action = text(&["stonith-action", "fencing-action"]).unwrap_or("reboot");
        Self {
            fencing: flag(&["stonith-enabled", "fencing-enabled"], true),
            fence_action: if action == "poweroff" { "off".into() } else { action.into() },
            startup_fencing: flag(&["startup-fencing"], true),
            have_watchdog: flag(&["have-watchdog"], false),
            quorum: cluster.quorum,
            quorum_policy,
            symmetric: flag(&["symmetric-cluster"], true),
            maintenance: flag(&["maintenance-mode"], false),
            managed_default: flag(&["is-managed-default"], true),
            stop_all: flag(&["stop-all-resources"], false),
            stop_orphans: flag(&["stop-orphan-resources", "stop-removed-resources"], true),
            cancel_orphan_actions: flag(&["stop-orphan-actions", "stop-removed-actions"], true),
            probe: flag(&["enable-startup-probes"], true),
            shutdown_lock: flag(&["shutdown-lock"], false),
            shutdown_lock_limit_s: text(&["shutdown-lock-limit"])
                .and_then(words::milliseconds)
                .map_or(0, |ms| (ms / 1_000) as i64),
            placing,
            default_timeout_ms: text(&["default-action-timeout"])
                .and_then(words::milliseconds)
                .unwrap_or(20_000),
            stonith_timeout_ms: text(&["stonith-timeout", "fencing-timeout"])
                .and_then(words::milliseconds)
                .unwrap_or(60_000),
        }
    }

    /// Lost nodes may be fenced.
    pub(crate) fn may_fence(&self) -> bool {
        self.fencing && (self.quorum || self.quorum_policy == QuorumPolicy::Ignore)
    }
}
