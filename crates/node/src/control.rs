//! What can be asked of a node: the one interface behind the API, the console and, through the API, the command line.
//!
//! The daemon implements it; nothing else changes the site. Answers of a change describe the state right after it was
//! committed, not after it took full effect.
//!
//! # Codes
//! A [`Problem`]'s code says how the API answers: codes that end in `-unknown` name something that does not exist,
//! `-exists` something that does already, `-busy` that something is in the way for now, `-invalid` and `-format` a
//! request that makes no sense; `no-quorum`, `not-ready` and codes that end in `-unreachable` or `-timeout` a node
//! that cannot decide now. Everything else is a failure inside the node.

pub mod plans;
pub mod restores;

use crate::view::{
    DrillReport, DrillRequest, Explanation, Happening, JoinToken, JoinTokenInfo, JoinTokenRequest,
    NodeStateChange, NodeView, ServiceCreate, ServiceMove, ServiceStateChange, ServiceView, SiteStatus,
    Times, TimingChange, VolumeCreate, VolumeView,
};
use anshin_base::Problem;
use std::{future::Future, pin::Pin};
use tokio::sync::broadcast;

/// An answer to come.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Problem>> + Send + 'a>>;

/// What can be asked of a node.
pub trait Control: plans::Plans + restores::Restores {
    /// Until this node knows how the site stands. Right after its start it does not for a moment, and what it would answer
    /// then is that nothing exists or runs. Bounded: a node that finds nobody answers with what it knows.
    fn settled(&self) -> Answer<'_, ()>;

    /// What this node knows now. Answers without quorum too, from local knowledge, and says how old that is.
    fn status(&self) -> Answer<'_, SiteStatus>;

    /// What happens from now on. A receiver that is too slow loses the oldest.
    fn events(&self) -> broadcast::Receiver<Happening>;

    /// Makes a token with which one node can join.
    fn create_join_token(&self, request: JoinTokenRequest) -> Answer<'_, JoinToken>;

    /// Tokens neither used nor expired.
    fn join_tokens(&self) -> Answer<'_, Vec<JoinTokenInfo>>;

    /// Takes a token back.
    fn revoke_join_token<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;

    /// Makes a volume.
    fn volume_create(&self, request: VolumeCreate) -> Answer<'_, VolumeView>;

    /// Every volume.
    fn volume_list(&self) -> Answer<'_, Vec<VolumeView>>;

    /// Makes a service.
    fn service_create(&self, request: ServiceCreate) -> Answer<'_, ServiceView>;

    /// Every service.
    fn service_list(&self) -> Answer<'_, Vec<ServiceView>>;

    /// One service.
    fn service_show<'a>(&'a self, name: &'a str) -> Answer<'a, ServiceView>;

    /// Moves a service to another node.
    fn service_move<'a>(&'a self, name: &'a str, request: ServiceMove) -> Answer<'a, ServiceView>;

    /// Starts or stops a service.
    fn service_set_state<'a>(&'a self, name: &'a str, request: ServiceStateChange)
    -> Answer<'a, ServiceView>;

    /// Changes what a node should be doing.
    fn node_set_state<'a>(&'a self, name: &'a str, request: NodeStateChange) -> Answer<'a, NodeView>;

    /// Changes the times that the site runs by.
    fn set_timing(&self, request: TimingChange) -> Answer<'_, Times>;

    /// Why a node, volume or service is as it is.
    fn explain<'a>(&'a self, subject: &'a str) -> Answer<'a, Explanation>;

    /// Rehearses a failover.
    fn drill(&self, request: DrillRequest) -> Answer<'_, DrillReport>;
}
