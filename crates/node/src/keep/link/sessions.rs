//! Sessions outlive the connections they are spoken over: what a client was told is there stays for it while its connection is
//! gone for a while.

use super::doorkeeper::Pass;
use anshin_link::Party;
use anshin_vault::{DomainId, Handle, Keeper, Vault, VaultError};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a session without connection is kept: longer than any client tries to come back.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// Sessions of one party; a node runs a handful of backups and restores at once.
const OF_ONE_MAX: usize = 64;
/// Connections of one party: one alone must not take the place of all.
const CONNECTIONS_OF_ONE_MAX: usize = 128;
/// Sessions in all.
const ALL_MAX: usize = 8192;

/// Names a session. The random part is the client's own; that it cannot be guessed is not relied on, since the party is
/// who its certificate says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct SessionKey {
    pub party: Party,
    pub domain: DomainId,
    pub random: [u8; 16],
}

struct Session {
    handle: Arc<Handle>,
    pass: Pass,
    connections: usize,
    left: Option<Instant>,
}

/// All sessions of a server.
#[derive(Default)]
pub(super) struct Sessions {
    all: Mutex<HashMap<SessionKey, Session>>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Session>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of this name for one more connection, and whether it was there. One of another pass is not taken up.
    pub(super) fn join(
        &self,
        vault: &Vault,
        key: &SessionKey,
        pass: &Pass,
    ) -> Result<(Arc<Handle>, bool), VaultError> {
        {
            let mut all = self.lock();
            let of_one = all.iter().filter(|(other, _)| other.party == key.party);
            if of_one.map(|(_, session)| session.connections).sum::<usize>() >= CONNECTIONS_OF_ONE_MAX {
                return Err(VaultError::Refused("too many connections at once".into()));
            }
            if let Some(session) = all.get_mut(key).filter(|session| session.pass == *pass) {
                session.connections += 1;
                session.left = None;
                return Ok((session.handle.clone(), true));
            }
        }
        // Opening a domain reads its index; nobody else waits for that.
        let handle =
            Arc::new(vault.handle_of(key.domain, &pass.client, &pass.writer, pass.rights, pass.shared)?);
        let mut all = self.lock();
        if all.len() >= ALL_MAX || all.keys().filter(|other| other.party == key.party).count() >= OF_ONE_MAX {
            return Err(VaultError::Refused("too many sessions at once".into()));
        }
        match all.entry(key.clone()) {
            // Another connection of the same session came first.
            Entry::Occupied(mut there) if there.get().pass == *pass => {
                there.get_mut().connections += 1;
                Ok((there.get().handle.clone(), true))
            }
            entry => {
                let session =
                    Session { handle: handle.clone(), pass: pass.clone(), connections: 1, left: None };
                entry.insert_entry(session);
                Ok((handle, false))
            }
        }
    }

    /// A connection is gone. The handle, if it was the session's last one: what it holds should be made durable.
    pub(super) fn leave(&self, key: &SessionKey, now: Instant) -> Option<Arc<Handle>> {
        let mut all = self.lock();
        let session = all.get_mut(key)?;
        session.connections = session.connections.saturating_sub(1);
        if session.connections > 0 {
            return None;
        }
        session.left = Some(now);
        Some(session.handle.clone())
    }

    /// The client said that the session ends.
    pub(super) fn end(&self, key: &SessionKey) {
        self.lock().remove(key);
    }

    /// Drops sessions whose client did not come back.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().retain(|_, session| {
            session.left.is_none_or(|left| now.saturating_duration_since(left) < KEPT_FOR)
        });
    }

    /// Makes durable what sessions hold, before the process ends.
    pub(super) fn flush(&self) {
        let handles: Vec<Arc<Handle>> = self.lock().values().map(|session| session.handle.clone()).collect();
        for handle in handles {
            // Its session learns of a failure when it seals.
            let _ = handle.flush();
        }
    }
}
