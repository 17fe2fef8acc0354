//! What can be proposed to the records, and what comes of it.

use super::{Cause, ClientToken, Drill, NewClient, Passed, Place, Progress, Sealed, VaultRecord};
use crate::{
    plan::Locus,
    time::UnixMillis,
    words::{Attempt, ClientId, PlanName, RunId, SnapshotId, TargetKey, VaultName},
};
use anshin_base::Problem;
use serde::{Deserialize, Serialize};

/// A run to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRun {
    /// Of which plan.
    pub plan: PlanName,
    /// What it backs up.
    pub target: TargetKey,
    /// Where it must run.
    pub locus: Locus,
    /// Why.
    pub cause: Cause,
    /// The instant of the calendar. None: by hand.
    pub occurrence: Option<UnixMillis>,
    /// When it is to begin.
    pub due: UnixMillis,
}

/// A change of the records. Every change names what it expects, so that one that comes twice, late, or from a leader
/// that was replaced is refused. Variants are only appended; their order is part of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Adds or replaces a plan.
    SetPlan {
        /// Its name.
        plan: PlanName,
        /// [`crate::plan::Plan::to_json`]; checked by the proposer.
        text: String,
        /// Its vault.
        vault: VaultName,
        /// The revision it replaces; 0: it is new.
        expect: u64,
        /// When.
        at: UnixMillis,
        /// Whether its calendar begins anew now: it is new, or its schedule changed, or it was enabled.
        restart: bool,
    },
    /// Removes a plan and cancels its open runs. Its snapshots stay.
    RemovePlan {
        /// Which.
        plan: PlanName,
        /// By whom.
        by: String,
        /// When.
        at: UnixMillis,
    },
    /// Adds or replaces a vault.
    SetVault(VaultRecord),
    /// Removes a vault that no plan uses.
    RemoveVault {
        /// Which.
        vault: VaultName,
    },
    /// Adds a token.
    AddClientToken {
        /// The token.
        token: ClientToken,
        /// When: tokens that have expired by now make room.
        at: UnixMillis,
    },
    /// Removes a token.
    RemoveClientToken {
        /// Its hash.
        hash: String,
    },
    /// Adds a client by using up a token, in one step.
    JoinClient {
        /// Hash of the token.
        token: String,
        /// When, compared with the expiry.
        at: UnixMillis,
        /// Who.
        client: NewClient,
    },
    /// Sets how many runs of a client go on at once.
    SetClient {
        /// Which.
        client: ClientId,
        /// Runs at once; 0: no limit.
        concurrent: u32,
    },
    /// Ends a client's right to connect.
    RevokeClient {
        /// Which.
        client: ClientId,
        /// When.
        at: UnixMillis,
    },
    /// Opens a run. Answered by [`Applied::Run`].
    Open {
        /// The run.
        run: NewRun,
        /// For a run of the calendar: where the target's calendar stands ([`super::Records::cursor`]).
        expect: UnixMillis,
        /// Earlier occurrences that get no run of their own.
        passed: Option<Passed>,
        /// When.
        at: UnixMillis,
    },
    /// Records that occurrences get no run.
    Pass {
        /// Which and why.
        passed: Passed,
        /// Where the target's calendar stands ([`super::Records::cursor`]).
        expect: UnixMillis,
        /// When.
        at: UnixMillis,
    },
    /// Sets back a target's calendar that a clock had carried into the future.
    SetBack {
        /// Of which plan.
        plan: PlanName,
        /// Which target.
        target: TargetKey,
        /// Where it stands.
        expect: UnixMillis,
        /// Where it is to stand.
        to: UnixMillis,
        /// When.
        at: UnixMillis,
    },
    /// Forgets what is remembered of a target that its plan no longer names.
    Retire {
        /// Of which plan.
        plan: PlanName,
        /// Which target.
        target: TargetKey,
    },
    /// Begins the attempt after `expect`. From then on nothing of an earlier attempt counts.
    Begin {
        /// Which run.
        run: RunId,
        /// The last attempt.
        expect: Attempt,
        /// Who executes it.
        place: Place,
        /// Which start of that daemon.
        session: u64,
        /// When.
        at: UnixMillis,
    },
    /// Records progress; what is not of a present attempt is left out.
    Progress {
        /// Run, attempt, progress.
        of: Vec<(RunId, Attempt, Progress)>,
    },
    /// An attempt died with its executor; the run waits for the next one.
    Lost {
        /// Which run.
        run: RunId,
        /// Which attempt.
        attempt: Attempt,
        /// How that is known.
        reason: String,
        /// When.
        at: UnixMillis,
        /// The next attempt does not begin before this.
        not_before: UnixMillis,
    },
    /// An attempt failed.
    Fail {
        /// Which run.
        run: RunId,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        reason: String,
        /// When.
        at: UnixMillis,
        /// When the next attempt may begin; None: the run ends as failed.
        retry: Option<UnixMillis>,
    },
    /// An attempt is sealed: the run ends well.
    Seal {
        /// Which run.
        run: RunId,
        /// Which attempt; any but the present or, between two, the last one is refused.
        attempt: Attempt,
        /// The snapshot.
        sealed: Sealed,
        /// When.
        at: UnixMillis,
    },
    /// Ends a run as cancelled, whatever its executor does.
    Cancel {
        /// Which run.
        run: RunId,
        /// By whom and why.
        reason: String,
        /// When.
        at: UnixMillis,
    },
    /// Ends a run that waits as failed.
    GiveUp {
        /// Which run.
        run: RunId,
        /// The last attempt.
        expect: Attempt,
        /// Why.
        reason: String,
        /// When.
        at: UnixMillis,
    },
    /// A waiting run needs not wait for its pause.
    Hasten {
        /// Which run.
        run: RunId,
        /// Since when.
        at: UnixMillis,
    },
    /// Puts a snapshot under a hold.
    Hold {
        /// Which.
        snapshot: SnapshotId,
        /// Where it is.
        vault: VaultName,
        /// By whom.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: UnixMillis,
    },
    /// Ends a hold.
    Release {
        /// Which.
        snapshot: SnapshotId,
        /// By whom.
        by: String,
        /// When.
        at: UnixMillis,
    },
    /// Records a drill.
    Drilled(Drill),
    /// Gives snapshots up, before the vault is told. Refused for held ones and for the newest good one of a target that
    /// is still planned.
    Forget {
        /// Where they are.
        vault: VaultName,
        /// Which.
        snapshots: Vec<SnapshotId>,
        /// By whom and by which rule.
        reason: String,
        /// When.
        at: UnixMillis,
    },
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// It is done.
    Done,
    /// This run was opened.
    Run(RunId),
    /// This attempt has begun.
    Attempt(Attempt),
    /// This client has joined.
    Client(ClientId),
}

/// Why a change was refused. The records are unchanged then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    /// What it names does not exist.
    #[error("there is no {0}")]
    Missing(String),
    /// It exists already.
    #[error("{0} exists already")]
    Exists(String),
    /// It was made for a state that has passed.
    #[error("{0}")]
    Stale(String),
    /// Something else still needs it.
    #[error("{0}")]
    InUse(String),
    /// The token is not valid.
    #[error("the token is not valid: {0}")]
    Token(String),
    /// A bound was reached.
    #[error("there are too many {0}")]
    TooMany(String),
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Missing(_) => Self::new("not-found", message),
            Refused::Exists(_) => Self::new("exists", message).hint("choose another name"),
            Refused::Stale(_) => {
                Self::new("changed", message).hint("look at the present state and try again")
            }
            Refused::InUse(_) => Self::refused("in-use", message),
            Refused::Token(_) => {
                Self::new("token", message).hint("make a new one with `anshin client token`")
            }
            Refused::TooMany(_) => Self::new("too-many", message),
        }
    }
}
