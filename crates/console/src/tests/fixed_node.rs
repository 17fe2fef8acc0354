//! A node for tests.

use anshin_base::Problem;
use anshin_node::{
    control::{Answer, Control},
    view::*,
};
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;

/// A node that knows the facts it was made with and writes down what it is asked to change.
pub struct FixedNode {
    pub facts: Mutex<Facts>,
    pub asked: Mutex<Vec<String>>,
    pub events: broadcast::Sender<Happening>,
}

pub(super) fn done<T: Send + 'static>(result: Result<T, Problem>) -> Answer<'static, T> {
    Box::pin(std::future::ready(result))
}

impl FixedNode {
    pub fn new(facts: Facts) -> Arc<Self> {
        Arc::new(Self { facts: Mutex::new(facts), asked: Mutex::default(), events: broadcast::channel(8).0 })
    }

    pub(super) fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts.lock().unwrap().clone()
    }

    fn service(&self, name: &str) -> Result<ServiceView, Problem> {
        let found = self.facts().services.into_iter().find(|service| service.name == name);
        found.ok_or_else(|| {
            Problem::new("service-unknown", format!("there is no service {name}"))
                .hint("see `anshin service list`")
        })
    }
}

impl Control for FixedNode {
    fn settled(&self) -> Answer<'_, ()> {
        done(Ok(()))
    }
    fn status(&self) -> Answer<'_, SiteStatus> {
        done(Ok(SiteStatus::from_facts(self.facts())))
    }
    fn events(&self) -> broadcast::Receiver<Happening> {
        self.events.subscribe()
    }
    fn create_join_token(&self, request: JoinTokenRequest) -> Answer<'_, JoinToken> {
        self.note(format!("token {:?}", request.valid_s));
        done(Ok(JoinToken { id: "t1".into(), token: "an1.x".into(), expires: "2026-03-02T10:30:00Z".into() }))
    }
    fn join_tokens(&self) -> Answer<'_, Vec<JoinTokenInfo>> {
        done(Ok(vec![JoinTokenInfo { id: "t1".into(), expires: "2026-03-02T10:30:00Z".into() }]))
    }
    fn revoke_join_token<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        self.note(format!("revoke {id}"));
        done(Ok(()))
    }
    fn volume_create(&self, request: VolumeCreate) -> Answer<'_, VolumeView> {
        self.note(format!("volume {} of {}", request.name, request.size_bytes));
        let found = self.facts().volumes.into_iter().find(|volume| volume.name != request.name);
        done(found.ok_or_else(|| Problem::new("volume-exists", "it exists")))
    }
    fn volume_list(&self) -> Answer<'_, Vec<VolumeView>> {
        done(Ok(self.facts().volumes))
    }
    fn service_create(&self, request: ServiceCreate) -> Answer<'_, ServiceView> {
        self.note(format!("protect {} by {:?}", request.name, request.program));
        done(self.service("postgresql"))
    }
    fn service_list(&self) -> Answer<'_, Vec<ServiceView>> {
        done(Ok(self.facts().services))
    }
    fn service_show<'a>(&'a self, name: &'a str) -> Answer<'a, ServiceView> {
        done(self.service(name))
    }
    fn service_move<'a>(&'a self, name: &'a str, request: ServiceMove) -> Answer<'a, ServiceView> {
        self.note(format!("move {name} to {:?}", request.to));
        if request.to.as_deref() == Some("c") {
            return done(Err(Problem::refused("no-current-copy", "c has no current copy")));
        }
        done(self.service(name))
    }
    fn service_set_state<'a>(
        &'a self,
        name: &'a str,
        request: ServiceStateChange,
    ) -> Answer<'a, ServiceView> {
        self.note(format!("{name} {:?}", request.state));
        done(self.service(name))
    }
    fn node_set_state<'a>(&'a self, name: &'a str, request: NodeStateChange) -> Answer<'a, NodeView> {
        self.note(format!("node {name} {:?}", request.state));
        done(self.facts().node(name).cloned().ok_or_else(|| Problem::new("no-quorum", "not now")))
    }
    fn set_timing(&self, request: TimingChange) -> Answer<'_, Times> {
        self.note(format!("timing {request:?}"));
        done(Ok(self.facts().times))
    }
    fn explain<'a>(&'a self, subject: &'a str) -> Answer<'a, Explanation> {
        let reason = Reason { what: "x".into(), why: "y".into() };
        let subject = subject.to_owned();
        done(Ok(Explanation { subject, answer: "so".into(), because: vec![reason], rejected: vec![] }))
    }
    fn drill(&self, request: DrillRequest) -> Answer<'_, DrillReport> {
        self.note(format!("drill {request:?}"));
        done(Err(Problem::new("drill-failed", "it went wrong")))
    }
}
