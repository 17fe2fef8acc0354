//! Turns recorded results into what is active where, and what failed.

use super::resource::PartialMigration;
use super::{FailureExpiry, Kind, MultipleActive, NodeIx, RscIx, World};
use crate::{NodeKind, OnFail, OperationRecord, RecordStatus, ResourceHistory, Role};

/// Exit codes of OCF agents.
pub(crate) mod exit {
    pub(crate) const OK: i32 = 0;
    pub(crate) const INVALID_PARAMETER: i32 = 2;
    pub(crate) const UNIMPLEMENTED: i32 = 3;
    pub(crate) const INSUFFICIENT_PRIVILEGE: i32 = 4;
    pub(crate) const NOT_INSTALLED: i32 = 5;
    pub(crate) const NOT_CONFIGURED: i32 = 6;
    pub(crate) const NOT_RUNNING: i32 = 7;
    pub(crate) const RUNNING_PROMOTED: i32 = 8;
    pub(crate) const FAILED_PROMOTED: i32 = 9;
    pub(crate) const DEGRADED: i32 = 190;
    pub(crate) const DEGRADED_PROMOTED: i32 = 191;
}

/// What is known of one resource on one node after some of its records.
struct Replay {
    role: Role,
    failed: bool,
    ignored: bool,
    on_fail: Option<OnFail>,
    /// A later success does not undo the consequence.
    pending: Option<&'static str>,
    start_pending: bool,
    known: bool,
    next_stopped: bool,
    stop_failed: bool,
}

/// How one record counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Skip,
    Pending,
    Well(Role),
    Failed { hard: bool, everywhere: bool },
    Unsupported,
}

impl<'c> World<'c> {
    pub(super) fn interpret_history(&mut self) {
        let cluster = self.cluster;
        let mut reported: Vec<NodeIx> = self.node_indices().collect();
        reported.sort_by_key(|n| self[*n].model);
        let mut order: Vec<NodeIx> = reported.iter().copied().filter(|n| self[*n].online).collect();
        if self.options.fencing {
            order.extend(reported.into_iter().filter(|n| !self[*n].online));
        }
        for node in order {
            if self[node].kind != NodeKind::Member {
                continue;
            }
            for history in &cluster.nodes[self[node].model].history {
                self.interpret_resource(node, history);
            }
        }
        for at in self.resource_indices() {
            self.settle_multiple(at);
        }
    }

    fn interpret_resource(&mut self, node: NodeIx, history: &'c ResourceHistory) {
        let at = self.owner_of_history(&history.resource, &history.agent, node);
        if self[at].kind != Kind::Primitive {
            return;
        }
        let mut records: Vec<&OperationRecord> = history.records.iter().collect();
        // A pending operation has no call number yet: it is the newest.
        records.sort_by_key(|r| if r.call_id < 0 { i64::MAX } else { r.call_id });
        let mut replay = Replay {
            role: Role::Unknown,
            failed: false,
            ignored: false,
            on_fail: None,
            pending: None,
            start_pending: false,
            known: false,
            next_stopped: false,
            stop_failed: false,
        };
        for record in records {
            self.replay(at, node, record, &mut replay);
        }
        self.settle_migration(at, node, history, &mut replay);
        if let Some(since) = history.locked_since {
            self.apply_lock(at, node, since.0);
        }
        if self[at].history_name.is_none() || replay.role.is_active() {
            self[at].history_name = Some(history.resource.clone());
        }
        self.apply(at, node, replay);
    }

    fn apply_lock(&mut self, at: RscIx, node: NodeIx, since: i64) {
        let limit = self.options.shutdown_lock_limit_s;
        let over = limit > 0 && self.now.0 > since.saturating_add(limit);
        if self.options.shutdown_lock && !over && !self[node].online {
            self[at].lock_node = Some(node);
        }
    }

    fn replay(&mut self, at: RscIx, node: NodeIx, record: &OperationRecord, state: &mut Replay) {
        if matches!(record.operation.as_str(), "notify" | "delete" | "meta-data" | "cancel") {
            return;
        }
        let verdict = self.judge(at, node, record);
        if verdict != Verdict::Skip
            && verdict != Verdict::Pending
            && (record.operation != "monitor" || record.interval_ms == 0)
        {
            state.known = true;
        }
        match verdict {
            Verdict::Skip => {}
            Verdict::Pending => self.replay_pending(at, record, state),
            Verdict::Well(role) => replay_success(record, role, state),
            Verdict::Unsupported => {}
            Verdict::Failed { hard, everywhere } => {
                self.replay_failure(at, node, record, state);
                if hard || everywhere {
                    self.ban_for_error(at, node, record, everywhere);
                }
            }
        }
    }

    fn judge(&mut self, at: RscIx, node: NodeIx, record: &OperationRecord) -> Verdict {
        let probe = record.operation == "monitor" && record.interval_ms == 0;
        match record.status {
            RecordStatus::Cancelled => return Verdict::Skip,
            RecordStatus::Pending => return Verdict::Pending,
            _ => {}
        }
        let promotable =
            self.clone_above(at).is_some_and(|c| self[c].clone.as_ref().is_some_and(|o| o.promotable));
        let code = match record.exit_code {
            exit::DEGRADED => exit::OK,
            exit::DEGRADED_PROMOTED => exit::RUNNING_PROMOTED,
            other => other,
        };
        let expected = match record.expected {
            exit::DEGRADED => exit::OK,
            exit::DEGRADED_PROMOTED => exit::RUNNING_PROMOTED,
            -1 => exit::OK,
            other => other,
        };
        if record.status == RecordStatus::NotInstalled && code == exit::OK {
            return Verdict::Failed { hard: true, everywhere: false };
        }
        if matches!(record.status, RecordStatus::TimedOut) {
            return self.unless_expired(at, node, record, Verdict::Failed { hard: false, everywhere: false });
        }
        let active = if promotable { Role::Unpromoted } else { Role::Started };
        let verdict = match code {
            exit::OK if probe => Verdict::Well(active),
            exit::NOT_RUNNING if probe || expected == code || !self[at].managed => {
                Verdict::Well(Role::Stopped)
            }
            exit::RUNNING_PROMOTED if probe || expected == code => Verdict::Well(Role::Promoted),
            exit::UNIMPLEMENTED if record.interval_ms > 0 && record.status == RecordStatus::NotSupported => {
                Verdict::Unsupported
            }
            exit::UNIMPLEMENTED
            | exit::INVALID_PARAMETER
            | exit::INSUFFICIENT_PRIVILEGE
            | exit::NOT_INSTALLED => {
                let is_stop = record.operation == "stop";
                Verdict::Failed { hard: !is_stop, everywhere: false }
            }
            exit::NOT_CONFIGURED => Verdict::Failed { hard: true, everywhere: true },
            _ if code == expected => Verdict::Well(match record.operation.as_str() {
                "stop" => Role::Stopped,
                "promote" => Role::Promoted,
                _ => active,
            }),
            _ => Verdict::Failed { hard: false, everywhere: false },
        };
        if matches!(verdict, Verdict::Failed { .. }) {
            return self.unless_expired(at, node, record, verdict);
        }
        verdict
    }

    /// A failure whose time is over does not count any more.
    fn unless_expired(
        &mut self,
        at: RscIx,
        node: NodeIx,
        record: &OperationRecord,
        verdict: Verdict,
    ) -> Verdict {
        let timeout = self[at].meta.failure_timeout_s;
        let (Some(when), true) = (record.changed, timeout > 0) else { return verdict };
        if self.now.0 <= when.0.saturating_add(timeout) || record.operation == "stop" && self.options.fencing
        {
            return verdict;
        }
        let (_, last) = self.failures(at, node, FailureExpiry::Ignore);
        let (counted, _) = self.failures(at, node, FailureExpiry::Respect);
        if counted > crate::Score::ZERO && last.is_some() {
            return verdict;
        }
        let probe = record.operation == "monitor" && record.interval_ms == 0;
        match record.operation.as_str() {
            "monitor" if !probe => Verdict::Skip,
            _ if probe => Verdict::Skip,
            _ => verdict,
        }
    }

    fn replay_pending(&mut self, at: RscIx, record: &OperationRecord, state: &mut Replay) {
        let promotable =
            self.clone_above(at).is_some_and(|c| self[c].clone.as_ref().is_some_and(|o| o.promotable));
        match record.operation.as_str() {
            "start" => {
                state.start_pending = true;
                state.role = Role::Started;
                state.pending = Some("Starting");
            }
            "promote" => {
                state.role = Role::Promoted;
                state.pending = Some("Promoting");
            }
            "demote" => state.pending = Some("Demoting"),
            "stop" => state.pending = Some("Stopping"),
            "migrate_to" => {
                state.role = if promotable { Role::Unpromoted } else { Role::Started };
                state.pending = Some("Migrating");
            }
            "migrate_from" => {
                state.role = Role::Started;
                state.pending = Some("Migrating");
            }
            "monitor" if record.interval_ms > 0 => state.pending = Some("Monitoring"),
            _ => {}
        }
    }

    fn replay_failure(&mut self, at: RscIx, _node: NodeIx, record: &OperationRecord, state: &mut Replay) {
        let on_fail = self.consequence(at, &record.operation, record.interval_ms);
        let promotable =
            self.clone_above(at).is_some_and(|c| self[c].clone.as_ref().is_some_and(|o| o.promotable));
        let active = if promotable { Role::Unpromoted } else { Role::Started };
        if on_fail == OnFail::Ignore {
            if state.role <= Role::Stopped {
                state.role = if record.operation == "stop" { Role::Stopped } else { active };
            }
            if record.operation == "promote" {
                state.role = Role::Promoted;
            }
            state.ignored = true;
            return;
        }
        state.failed = true;
        state.pending = None;
        match record.operation.as_str() {
            "stop" => state.stop_failed = true,
            "promote" => state.role = Role::Promoted,
            "demote" => {
                state.role = match (on_fail, record.exit_code) {
                    (OnFail::Block, _) => Role::Promoted,
                    (_, exit::NOT_RUNNING) => Role::Stopped,
                    _ => Role::Unpromoted,
                }
            }
            _ => {}
        }
        if record.exit_code == exit::FAILED_PROMOTED
            || record.exit_code == exit::RUNNING_PROMOTED && promotable
        {
            state.role = Role::Promoted;
        }
        let looked = record.operation == "monitor" && record.interval_ms == 0;
        if state.role <= Role::Stopped {
            // Without its agent nothing can have been started there.
            let absent = looked && record.exit_code == exit::NOT_INSTALLED;
            state.role = if absent { Role::Stopped } else { active };
        }
        if on_fail == OnFail::Stop {
            state.next_stopped = true;
        }
        state.on_fail = state.on_fail.max(Some(on_fail));
    }

    /// What a failure of the operation leads to.
    pub(crate) fn consequence(&self, at: RscIx, operation: &str, interval_ms: u64) -> OnFail {
        let rsc = &self[at];
        let configured =
            rsc.operations.iter().find(|op| op.name == operation && op.interval_ms == interval_ms);
        let fencing = self.options.fencing;
        let chosen = configured.and_then(|op| op.on_fail).filter(|on_fail| match on_fail {
            OnFail::Fence => fencing,
            OnFail::Standby | OnFail::Demote if operation == "stop" => false,
            _ => true,
        });
        match (operation, chosen, configured.and_then(|op| op.on_fail)) {
            (_, Some(on_fail), _) => on_fail,
            ("stop", None, _) if fencing && !rsc.agent.is_fence_device() => OnFail::Fence,
            ("stop", None, _) => OnFail::Block,
            (_, None, Some(OnFail::Fence)) => OnFail::Stop,
            _ => OnFail::Restart,
        }
    }

    fn ban_for_error(&mut self, at: RscIx, node: NodeIx, record: &OperationRecord, everywhere: bool) {
        let clone = self.clone_above(at).filter(|c| self[*c].clone.as_ref().is_some_and(|o| !o.unique));
        let target = clone.unwrap_or(at);
        let why = format!("{} failed with exit code {}", record.operation, record.exit_code);
        for other in self.node_indices() {
            if everywhere || other == node {
                self.bans.push((target, other, why.clone()));
            }
        }
    }

    fn settle_migration(&mut self, at: RscIx, node: NodeIx, history: &ResourceHistory, state: &mut Replay) {
        let newest = |name: &str| {
            history
                .records
                .iter()
                .filter(|r| r.operation == name)
                .max_by_key(|r| if r.call_id < 0 { i64::MAX } else { r.call_id })
        };
        let Some(sent) = newest("migrate_to") else { return };
        let call = |r: &OperationRecord| if r.call_id < 0 { i64::MAX } else { r.call_id };
        let later = |name: &str| newest(name).is_some_and(|r| call(r) > call(sent));
        if later("stop") || later("start") || later("migrate_from") {
            return;
        }
        let Some(target) = sent.migrate_target.as_deref().and_then(|t| self.find_node(t)) else { return };
        let received = self.received_migration(history, target, node);
        match (sent.status, received) {
            (RecordStatus::Pending, _) => {
                state.pending = Some("Migrating");
            }
            (RecordStatus::Done, Some(true)) if sent.exit_code == exit::OK => {
                // It arrived: only remains are left here, which a stop cleans up.
                state.role = if state.failed { state.role } else { Role::Stopped };
                if !self[at].running_on.contains(&target) || !later("monitor") {
                    state.role = Role::Started;
                }
            }
            (RecordStatus::Done, None) if sent.exit_code == exit::OK => {
                state.role = Role::Started;
                if self[target].online && self[target].unclean.is_none() {
                    self[at].partial_migration = Some(PartialMigration { source: node, target });
                }
            }
            _ => {}
        }
    }

    /// Whether the target took over: nothing known, well, or failed.
    fn received_migration(&self, history: &ResourceHistory, target: NodeIx, source: NodeIx) -> Option<bool> {
        let model = &self.cluster.nodes[self[target].model];
        let there = model.history.iter().find(|h| h.resource == history.resource)?;
        let received = there.records.iter().find(|r| {
            r.operation == "migrate_from" && r.migrate_source.as_deref() == Some(self[source].name.as_str())
        })?;
        match received.status {
            RecordStatus::Pending => None,
            _ => Some(received.exit_code == exit::OK),
        }
    }

    fn apply(&mut self, at: RscIx, node: NodeIx, mut state: Replay) {
        if self[node].unclean.is_some() {
            // The node is going to be fenced, which settles everything that failed there.
            state.failed = false;
            state.on_fail = None;
            state.next_stopped = false;
            if state.stop_failed && state.role <= Role::Stopped {
                state.role = Role::Started;
            }
            state.stop_failed = false;
        }
        if state.known || state.role.is_active() {
            self[at].known_on.insert(node);
        }
        if state.role.is_active() {
            self[at].running_on.push(node);
            self[node].running.push(at);
            self[at].role = self[at].role.max(state.role);
            if self[node].maintenance {
                self[at].managed = false;
            }
        }
        if state.pending.is_none() && state.role.is_active() {
            self[at].pending_task = None;
        }
        if state.pending.is_some() && self[node].online {
            self[at].pending_task = state.pending;
        }
        self[at].start_pending |= state.start_pending && state.role.is_active();
        self[at].failure_ignored |= state.ignored && !state.failed;
        if state.failed && (state.role.is_active() || state.stop_failed) {
            self[at].failed = true;
        }
        let Some(on_fail) = state.on_fail else { return self.fence_for_lost(at, node, &state) };
        if state.next_stopped && self[at].meta.target_role != Some(Role::Stopped) {
            self[at].next_role = Role::Stopped;
            self[at].next_role_reason = Some("on-fail=stop".into());
        }
        self[at].on_fail.insert(node, on_fail);
        self.apply_consequence(at, node, on_fail, &state);
        self.fence_for_lost(at, node, &state);
    }

    fn apply_consequence(&mut self, at: RscIx, node: NodeIx, on_fail: OnFail, state: &Replay) {
        if state.stop_failed {
            self.bans.push((at, node, "stop failed there".into()));
        }
        match on_fail {
            OnFail::Ignore => {}
            OnFail::Restart | OnFail::Stop => self[at].must_stop |= state.role.is_active(),
            OnFail::Demote => {
                self[at].demote_first = true;
                self[at].must_stop = true;
            }
            OnFail::Block => {
                self[at].managed = false;
                self[at].blocked = true;
            }
            OnFail::Standby => {
                self[at].must_stop |= state.role.is_active();
                self[node].standby_by_failure = true;
            }
            OnFail::Fence => {
                self[at].must_stop |= state.role.is_active();
                if self[at].managed && self[node].unclean.is_none() {
                    self[node].unclean = Some(format!("{} failed there", self.shown(at)));
                }
            }
        }
    }

    fn fence_for_lost(&mut self, at: RscIx, node: NodeIx, state: &Replay) {
        let lost = !self[node].online && self[node].unclean.is_none() && state.role.is_active();
        if lost && self.options.fencing && self[at].managed && self[node].kind == NodeKind::Member {
            let name = self.shown(at);
            self[node].unclean = Some(format!("{name} is thought to be active there"));
        }
    }

    /// The name of an instance as people see it.
    pub(crate) fn shown(&self, at: RscIx) -> String {
        self[at].id.clone()
    }

    fn settle_multiple(&mut self, at: RscIx) {
        if self[at].kind != Kind::Primitive
            || self[at].running_on.len() < 2
            || self[at].partial_migration.is_some()
        {
            return;
        }
        match self[at].meta.multiple_active {
            MultipleActive::Block => {
                let group = self[at].parent.filter(|p| self[*p].kind == Kind::Group);
                let all = match group {
                    Some(g) => self[g].children.clone(),
                    None => vec![at],
                };
                for one in all {
                    self[one].managed = false;
                    self[one].blocked = true;
                }
            }
            MultipleActive::StopOnly => self[at].next_role = Role::Stopped,
            _ => {}
        }
    }
}

fn replay_success(record: &OperationRecord, role: Role, state: &mut Replay) {
    let probe = record.operation == "monitor" && record.interval_ms == 0;
    let clears = match record.operation.as_str() {
        "stop" => {
            state.role = Role::Stopped;
            true
        }
        "start" | "migrate_from" => {
            state.role = role;
            true
        }
        "promote" => {
            state.role = Role::Promoted;
            true
        }
        "demote" => {
            state.role = Role::Unpromoted;
            true
        }
        "migrate_to" => false,
        "monitor" if role == Role::Stopped => {
            state.role = Role::Stopped;
            state.failed = false;
            state.on_fail = None;
            true
        }
        "monitor" if probe || role == Role::Promoted => {
            state.role = role;
            probe
        }
        _ => {
            if state.role <= Role::Stopped {
                state.role = role;
            }
            false
        }
    };
    if !clears {
        return;
    }
    state.pending = None;
    state.start_pending = false;
    match state.on_fail {
        Some(OnFail::Stop | OnFail::Fence | OnFail::Standby) => {
            if state.role == Role::Stopped {
                state.failed = false;
            }
        }
        _ => {
            state.failed = false;
            state.on_fail = None;
            state.ignored = false;
            state.stop_failed = false;
            state.next_stopped = false;
        }
    }
}
