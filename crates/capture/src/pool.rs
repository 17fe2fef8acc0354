//! Workers that share a stack of tasks: what was found last is done first, so that little is open at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The stack and who works on it.
pub(crate) struct Pool<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    tasks: Vec<T>,
    busy: usize,
    closed: bool,
}

/// Counts a worker as busy for as long as it lives; closes the pool if the task panics, so that nobody waits for ever.
struct Busy<'p, T>(&'p Pool<T>);

impl<T> Drop for Busy<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.busy -= 1;
        if std::thread::panicking() {
            state.closed = true;
            state.tasks.clear();
        }
        if state.busy == 0 {
            self.0.changed.notify_all();
        }
    }
}

impl<T: Send> Pool<T> {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State { tasks: Vec::new(), busy: 0, closed: false }),
            changed: Condvar::new(),
        }
    }

    /// Works on `first` and everything that is pushed meanwhile; returns when nothing is left, or soon after a close.
    pub fn run(&self, workers: usize, first: Vec<T>, work: impl Fn(T) + Sync) {
        self.lock().tasks = first;
        std::thread::scope(|scope| {
            for _ in 1..workers.max(1) {
                scope.spawn(|| self.worker(&work));
            }
            self.worker(&work);
        });
    }

    fn worker(&self, work: &(impl Fn(T) + Sync)) {
        while let Some((task, busy)) = self.next() {
            work(task);
            drop(busy);
        }
    }

    fn next(&self) -> Option<(T, Busy<'_, T>)> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop() {
                state.busy += 1;
                return Some((task, Busy(self)));
            }
            if state.busy == 0 || state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds a task that is done next.
    pub fn push(&self, task: T) {
        let mut state = self.lock();
        if !state.closed {
            state.tasks.push(task);
            self.changed.notify_one();
        }
    }

    /// Adds tasks of which the first is done next.
    pub fn push_all(&self, tasks: Vec<T>) {
        let mut state = self.lock();
        if !state.closed && !tasks.is_empty() {
            state.tasks.extend(tasks.into_iter().rev());
            self.changed.notify_all();
        }
    }

    /// Forgets what is left.
    pub fn close(&self) {
        let left = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.tasks)
        };
        drop(left); // outside the lock: dropping a task may close files
        self.changed.notify_all();
    }
}

impl<T> Pool<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn everything_that_is_pushed_is_done_once() {
        let pool = Pool::new();
        let sum = AtomicU64::new(0);
        pool.run(4, vec![10u64], |task| {
            sum.fetch_add(1, Ordering::Relaxed);
            pool.push_all((0..task).collect());
        });
        assert_eq!(sum.into_inner(), 1 << 10, "10 gives 0..=9, each of which gives those below it");
    }

    #[test]
    fn a_closed_pool_returns_without_doing_the_rest() {
        let pool = Pool::new();
        let done = AtomicU64::new(0);
        pool.run(2, (0..1000u64).collect(), |_| {
            if done.fetch_add(1, Ordering::Relaxed) == 0 {
                pool.close();
            }
        });
        assert!(done.into_inner() <= 1000);
        assert!(pool.next().is_none());
    }
}
