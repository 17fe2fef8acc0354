//! The restores of services that this daemon has begun, for those who ask how they stand.

use crate::view::{RestoreStand, RestoreView};
use anshin_base::Problem;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Restores that are remembered.
const REMEMBERED: usize = 100;

/// The restores that this daemon knows.
#[derive(Clone, Default)]
pub struct RestoreBook(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    last: u64,
    entries: BTreeMap<u64, Entry>,
}

struct Entry {
    view: RestoreView,
    begun: Instant,
    /// Ends the restore's process; None once that is over.
    stopper: Option<oneshot::Sender<Problem>>,
}

impl RestoreBook {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one that begins, and gives what tells that it is not wanted any more.
    ///
    /// # Errors
    /// If another one of the same service in place goes on.
    pub(super) fn open(&self, mut view: RestoreView) -> Result<(u64, oneshot::Receiver<Problem>), Problem> {
        let mut book = self.lock();
        let works = |entry: &&Entry| entry.view.stand == RestoreStand::Working && entry.view.to.is_none();
        let same = book.entries.values().filter(works).find(|entry| entry.view.service == view.service);
        if let Some(same) = same.filter(|_| view.to.is_none()) {
            let message = format!("restore {} of {} in place goes on", same.view.id, view.service);
            return Err(Problem::new("restore-busy", message).hint("wait for its end, or cancel it"));
        }
        book.last += 1;
        let (id, (stopper, stop)) = (book.last, oneshot::channel());
        view.id = id;
        book.entries.insert(id, Entry { view, begun: Instant::now(), stopper: Some(stopper) });
        while book.entries.len() > REMEMBERED {
            // One that works is never forgotten: nobody could cancel it, nor know that it goes on.
            let ended = book.entries.iter().find(|(_, entry)| entry.view.stand != RestoreStand::Working);
            let Some(oldest) = ended.map(|(id, _)| *id) else { break };
            book.entries.remove(&oldest);
        }
        Ok((id, stop))
    }

    /// Changes what is shown of one.
    pub(super) fn change(&self, id: u64, change: impl FnOnce(&mut RestoreView)) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            change(&mut entry.view);
        }
    }

    /// From here on it cannot be cancelled any more.
    pub(super) fn settle(&self, id: u64) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.stopper = None;
        }
    }

    /// It has ended so.
    pub(super) fn end(&self, id: u64, result: Result<(), Problem>) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.stopper = None;
            entry.view.took_ms = millis(entry.begun.elapsed());
            match result {
                Ok(()) => entry.view.stand = RestoreStand::Done,
                Err(problem) => {
                    entry.view.stand = RestoreStand::Failed;
                    (entry.view.problem, entry.view.hint) = (Some(problem.message), problem.hint);
                }
            }
        }
    }

    /// All, oldest first.
    pub(super) fn all(&self) -> Vec<RestoreView> {
        self.lock().entries.values().map(Entry::shown).collect()
    }

    /// Tells one that it is not wanted any more.
    ///
    /// # Errors
    /// If it cannot be ended, or there is none of that number.
    pub(super) fn cancel(&self, id: u64) -> Result<RestoreView, Problem> {
        let shown = self.shown(id)?;
        let stopper = self.lock().entries.get_mut(&id).and_then(|entry| entry.stopper.take());
        let stopped =
            stopper.map(|stopper| stopper.send(Problem::new("restore-cancelled", "it was cancelled")));
        match stopped {
            Some(Ok(())) => Ok(shown),
            _ => Err(Problem::new("restore-ended", format!("restore {id} cannot be cancelled any more"))),
        }
    }

    /// One.
    ///
    /// # Errors
    /// If there is none of that number.
    pub(super) fn shown(&self, id: u64) -> Result<RestoreView, Problem> {
        let book = self.lock();
        book.entries.get(&id).map(Entry::shown).ok_or_else(|| {
            let problem = Problem::new("restore-unknown", format!("this node knows no restore {id}"));
            problem
                .hint("a daemon that was started anew knows none of those before; look at the service itself")
        })
    }

    /// Whether one of the service in place goes on.
    pub(super) fn in_place(&self, service: &str) -> bool {
        self.lock().entries.values().any(|entry| {
            let view = &entry.view;
            view.stand == RestoreStand::Working && view.to.is_none() && view.service == service
        })
    }
}

impl Entry {
    fn shown(&self) -> RestoreView {
        let mut view = self.view.clone();
        if view.stand == RestoreStand::Working {
            view.took_ms = millis(self.begun.elapsed());
        }
        view
    }
}

/// For what is shown.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
