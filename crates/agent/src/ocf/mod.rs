//! OCF resource agents, API 1.1, unmodified: their environment, their self-description, and what is wrong with a
//! resource that uses one.
//!
//! Documented at <https://github.com/ClusterLabs/OCF-spec> (ra/1.1/resource-agent-api.md).

mod environment;
mod metadata;

pub use environment::{Environment, exit_reason};
pub use metadata::{ActionInfo, Metadata, Parameter};
