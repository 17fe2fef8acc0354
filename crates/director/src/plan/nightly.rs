//! The plan that a site has from the moment it has a vault.

use super::{Keep, Plan, Source};
use crate::{
    time::Span,
    words::{PlanName, VaultName},
};

/// Name of the default plan.
pub const NIGHTLY: &str = "nightly";

/// Every night everything protected, also what is added later: seven days, five weeks and twelve months back.
#[must_use]
pub fn nightly(vault: &VaultName, zone: &str) -> Plan {
    Plan {
        name: PlanName::from(NIGHTLY),
        description: "everything protected, every night".into(),
        enabled: true,
        what: vec![Source::Protected { except: Vec::new() }],
        when: vec!["daily 23:00".into()],
        zone: zone.to_owned(),
        spread: Span::minutes(10),
        missed: super::Missed::CatchUp,
        overlap: super::Overlap::Skip,
        vault: vault.clone(),
        keep: Keep { last: 3, daily: 7, weekly: 5, monthly: 12, ..Keep::default() },
        before: Vec::new(),
        after: Vec::new(),
        retry: super::Retry::default(),
        limits: super::Limits::default(),
        priority: super::PRIORITY_DEFAULT,
        expect: None,
        drill: None,
        tags: Vec::new(),
    }
}
