//! One plan on its way: which of its actions may begin, which run, which are done. Pure.
//!
//! When the world changes while a plan is carried out, nothing more of it begins ([`Transition::abort`]); what runs is
//! waited for, and the next plan starts from what was then observed. So a leader that dies in the middle loses nothing:
//! its successor plans from the nodes' own reports.

use anshin_policy::{Action, ActionId, ActionKind, Plan};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Waiting,
    Running,
    Done,
    Failed,
}

/// A plan being carried out.
#[derive(Debug)]
pub struct Transition {
    plan: Plan,
    steps: BTreeMap<ActionId, Step>,
    aborted: Option<String>,
    surprised: bool,
}

impl Transition {
    /// Nothing has begun.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let steps = plan.actions.iter().map(|action| (action.id, Step::Waiting)).collect();
        Self { plan, steps, aborted: None, surprised: false }
    }

    /// The actions that begin now; pseudo actions are done at once and make way for their successors.
    pub fn begin(&mut self) -> Vec<Action> {
        let mut begun = Vec::new();
        if self.aborted.is_some() {
            return begun;
        }
        loop {
            let ready: Vec<Action> =
                self.plan.actions.iter().filter(|action| self.is_ready(action)).cloned().collect();
            if ready.is_empty() {
                return begun;
            }
            for action in ready {
                if action.kind == ActionKind::Pseudo {
                    self.steps.insert(action.id, Step::Done);
                } else {
                    self.steps.insert(action.id, Step::Running);
                    begun.push(action);
                }
            }
        }
    }

    /// An action ended. A failure ends the plan: what failed changes what should be done.
    pub fn ended(&mut self, id: ActionId, well: bool) {
        self.steps.insert(id, if well { Step::Done } else { Step::Failed });
        if !well {
            let key =
                self.plan.actions.iter().find(|action| action.id == id).map(|action| action.key.as_str());
            let why = format!("{} failed", key.unwrap_or("an action"));
            self.abort(&why);
        }
    }

    /// A look found another state than the plan rests on: no failure, but what follows must be planned anew.
    pub fn found(&mut self, id: ActionId) {
        self.steps.insert(id, Step::Done);
        self.surprised = true;
        let resource = self.plan.actions.iter().find(|action| action.id == id);
        let resource = resource.and_then(|action| action.resource.as_deref()).unwrap_or("something");
        let why = format!("{resource} was found in another state than expected");
        self.abort(&why);
    }

    /// Whether the plan ended because of what was found, not because something failed.
    #[must_use]
    pub fn surprised(&self) -> bool {
        self.surprised && !self.steps.values().any(|step| *step == Step::Failed)
    }

    /// Nothing more begins.
    pub fn abort(&mut self, why: &str) {
        self.aborted.get_or_insert_with(|| why.to_owned());
    }

    /// Why nothing more begins, if so.
    #[must_use]
    pub fn aborted(&self) -> Option<&str> {
        self.aborted.as_deref()
    }

    /// The actions that run now.
    #[must_use]
    pub fn running(&self) -> BTreeSet<ActionId> {
        self.steps.iter().filter(|(_, step)| **step == Step::Running).map(|(id, _)| *id).collect()
    }

    /// Nothing runs and nothing can begin any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.running().is_empty()
            && (self.aborted.is_some() || !self.plan.actions.iter().any(|action| self.is_ready(action)))
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn is_ready(&self, action: &Action) -> bool {
        self.steps.get(&action.id) == Some(&Step::Waiting)
            && action.after.iter().all(|before| self.steps.get(before) == Some(&Step::Done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(id: u32, kind: ActionKind, after: &[u32]) -> Action {
        Action {
            id: ActionId(id),
            kind,
            key: format!("action-{id}"),
            resource: None,
            node: None,
            operation: String::new(),
            interval_ms: 0,
            timeout_ms: 0,
            expected: 0,
            parameters: BTreeMap::new(),
            after: after.iter().map(|&id| ActionId(id)).collect(),
            reason: String::new(),
        }
    }

    fn transition(actions: Vec<Action>) -> Transition {
        Transition::new(Plan { actions, ..Plan::default() })
    }

    fn ids(actions: &[Action]) -> Vec<u32> {
        actions.iter().map(|action| action.id.0).collect()
    }

    #[test]
    fn actions_begin_when_all_before_them_are_done() {
        let mut transition = transition(vec![
            action(1, ActionKind::Stop, &[]),
            action(2, ActionKind::Stop, &[]),
            action(3, ActionKind::Pseudo, &[1, 2]),
            action(4, ActionKind::Start, &[3]),
        ]);
        assert_eq!(ids(&transition.begin()), [1, 2]);
        transition.ended(ActionId(1), true);
        assert!(transition.begin().is_empty());
        transition.ended(ActionId(2), true);
        assert_eq!(ids(&transition.begin()), [4]);
        assert!(!transition.is_over());
        transition.ended(ActionId(4), true);
        assert!(transition.is_over());
    }

    #[test]
    fn what_a_look_finds_ends_the_plan_but_is_no_failure() {
        let actions = || vec![action(1, ActionKind::Probe, &[]), action(2, ActionKind::Start, &[1])];
        let mut found = transition(actions());
        found.begin();
        found.found(ActionId(1));
        assert!(found.begin().is_empty() && found.is_over() && found.surprised());
        assert!(!found.aborted().unwrap().contains("failed"));
        let mut failed = transition(actions());
        failed.begin();
        failed.ended(ActionId(1), false);
        assert!(failed.is_over() && !failed.surprised());
    }

    #[test]
    fn after_a_failure_nothing_more_begins_and_what_runs_is_waited_for() {
        let mut transition = transition(vec![
            action(1, ActionKind::Stop, &[]),
            action(2, ActionKind::Stop, &[]),
            action(3, ActionKind::Start, &[2]),
        ]);
        transition.begin();
        transition.ended(ActionId(1), false);
        assert!(!transition.is_over());
        transition.ended(ActionId(2), true);
        assert!(transition.begin().is_empty());
        assert!(transition.is_over());
        assert_eq!(transition.aborted(), Some("action-1 failed"));
    }
}
