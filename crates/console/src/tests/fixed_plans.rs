//! The plans of the node for tests.

use super::fixed_node::{FixedNode, done};
use anshin_base::Problem;
use anshin_node::{
    control::{Answer, plans::Plans, restores::Restores},
    view::*,
};

fn plan(name: &str) -> PlanView {
    PlanView {
        name: name.into(),
        revision: 3,
        vault: "main".into(),
        description: "everything protected, every night".into(),
        enabled: true,
        when: vec!["daily 23:00".into()],
        zone: "Europe/Berlin".into(),
        targets: vec!["service/postgresql".into()],
        next: Some("2026-03-02T22:03:00Z".into()),
        trouble: None,
        toml: String::new(),
    }
}

impl FixedNode {
    fn run(&self, run: u64) -> Result<RunShow, Problem> {
        let found = self.facts().backups.runs.into_iter().find(|view| view.id == run);
        found.map(RunShow::Open).ok_or_else(|| Problem::new("run-unknown", format!("there is no run {run}")))
    }
}

impl Plans for FixedNode {
    fn plan_list(&self) -> Answer<'_, Vec<PlanView>> {
        done(Ok(vec![plan("nightly")]))
    }
    fn plan_show<'a>(&'a self, name: &'a str) -> Answer<'a, PlanView> {
        done(Ok(plan(name)))
    }
    fn plan_add(&self, request: PlanSet) -> Answer<'_, Vec<PlanView>> {
        self.note(format!("add plan {}", request.toml));
        done(Ok(vec![plan("nightly")]))
    }
    fn plan_replace<'a>(&'a self, name: &'a str, request: PlanSet) -> Answer<'a, PlanView> {
        self.note(format!("replace plan {name} at {:?}", request.revision));
        done(Ok(plan(name)))
    }
    fn plan_remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.note(format!("remove plan {name}"));
        done(Ok(()))
    }
    fn plan_run<'a>(&'a self, name: &'a str, request: PlanRun) -> Answer<'a, RunsOpened> {
        self.note(format!("run plan {name} for {:?}", request.targets));
        done(Ok(RunsOpened { runs: vec![7] }))
    }
    fn run_list(&self) -> Answer<'_, RunList> {
        let backups = self.facts().backups;
        done(Ok(RunList { open: backups.runs, ended: backups.ended }))
    }
    fn run_show(&self, run: u64) -> Answer<'_, RunShow> {
        done(self.run(run))
    }
    fn run_cancel(&self, run: u64, request: RunCancel) -> Answer<'_, EndedRunView> {
        self.note(format!("cancel run {run}: {:?}", request.reason));
        let ended = self.facts().backups.ended.into_iter().next();
        done(ended.ok_or_else(|| Problem::new("run-unknown", format!("there is no run {run}"))))
    }
    fn run_hasten(&self, run: u64) -> Answer<'_, RunShow> {
        self.note(format!("hasten run {run}"));
        done(self.run(run))
    }
    fn retention<'a>(&'a self, _: &'a str) -> Answer<'a, Vec<RetentionView>> {
        done(Ok(Vec::new()))
    }
    fn catalog_rebuild(&self) -> Answer<'_, CatalogRebuilt> {
        self.note("rebuild the catalog");
        done(Ok(CatalogRebuilt { facts: 3 }))
    }
    fn calendar(&self) -> Answer<'_, Vec<CalendarEntry>> {
        done(Ok(Vec::new()))
    }
}

fn restored(id: u64) -> RestoreView {
    RestoreView { id, service: "postgresql".into(), stand: RestoreStand::Done, ..RestoreView::default() }
}

impl Restores for FixedNode {
    fn restore_list(&self) -> Answer<'_, Vec<RestoreView>> {
        done(Ok(vec![restored(1)]))
    }
    fn restore_start(&self, request: RestoreStart) -> Answer<'_, RestoreView> {
        self.note(format!("restore {} at {:?} to {:?}", request.service, request.at, request.to));
        done(Ok(restored(2)))
    }
    fn restore_show(&self, id: u64) -> Answer<'_, RestoreView> {
        done(Ok(restored(id)))
    }
    fn restore_cancel(&self, id: u64) -> Answer<'_, RestoreView> {
        self.note(format!("cancel restore {id}"));
        done(Ok(restored(id)))
    }
}
