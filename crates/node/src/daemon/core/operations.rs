//! Running the operations that a leader orders, one at a time per resource, and repeating monitors.

use super::{Core, Event};
use crate::{
    backup::swap,
    daemon::{
        messages::{Message, Order, Work},
        parts::services,
        volumes,
    },
    paths::Paths,
};
use anshin_agent::{Action, Operation, OperationResult, Rc, Runner, Status, release};
use anshin_base::{NodeId, Problem};
use std::{collections::VecDeque, path::Path, time::Duration};

/// Orders remembered, so that one that comes twice is run once.
const ORDERS_MAX: usize = 1_000;

impl Core {
    /// An order from another daemon; one that is known already is not run again, only answered again.
    pub(super) fn take_new_order(&mut self, from: NodeId, order: Order) {
        let request = order.request;
        match self.orders.get(&request) {
            None => {
                self.orders.insert(request, None);
                self.order_numbers.push_back(request);
                if self.order_numbers.len() > ORDERS_MAX
                    && let Some(oldest) = self.order_numbers.pop_front()
                {
                    self.orders.remove(&oldest);
                }
                self.take_order(Some(from), order);
            }
            Some(None) => {}
            Some(Some(well)) => {
                let message = Message::Ran { request, well: *well, report: self.own_report() };
                self.setup.voter.send(from, message.encode());
            }
        }
    }

    pub(super) fn take_order(&mut self, from: Option<NodeId>, order: Order) {
        if let Some(queue) = self.busy.get_mut(&order.resource) {
            queue.push_back((from, order));
            return;
        }
        self.run_order(from, order);
    }

    pub(super) fn run_order(&mut self, from: Option<NodeId>, order: Order) {
        self.busy.entry(order.resource.clone()).or_default();
        if order.operation == "stop" {
            self.leave_before(&order);
        }
        let (runner, paths, events) =
            (self.setup.runner.clone(), self.setup.paths.clone(), self.setup.events.clone());
        if order.operation != "monitor" {
            tracing::info!(resource = order.resource, operation = order.operation, "running");
        }
        tokio::spawn(async move {
            let result = run_operation(&runner, &paths, &order).await;
            let _ = events.send(Event::Ended { asked_by: from, order, result }).await;
        });
    }

    pub(super) fn ended(&mut self, asked_by: Option<NodeId>, order: &Order, result: OperationResult) {
        let well = self.local.ended(order, result.clone(), jiff::Timestamp::now().as_second());
        self.note_operation(order, &result, well);
        if order.interval.0 > 0 {
            self.repeat(order.clone());
        }
        self.refresh_own_report();
        if let Some(leader) = asked_by {
            if let Some(known) = self.orders.get_mut(&order.request) {
                *known = Some(well);
            }
            let report = self.own_report();
            self.world.reports.insert(self.setup.me, report.clone());
            if leader == self.setup.me {
                if let Some(leader) = &mut self.leader {
                    leader.ran(&self.world, order.request, well);
                }
            } else {
                let message = Message::Ran { request: order.request, well, report };
                self.setup.voter.send(leader, message.encode());
            }
        }
        let next = self.busy.get_mut(&order.resource).and_then(VecDeque::pop_front);
        match next {
            Some((from, order)) => self.run_order(from, order),
            None => {
                self.busy.remove(&order.resource);
            }
        }
    }

    /// What was configured here is no longer: what the node's own manager was kept from doing with it, it may do again.
    pub(super) fn let_go(&self, work: Work) {
        let (Work::Agent(resource), runner) = (work, self.setup.runner.clone()) else { return };
        tokio::spawn(async move {
            if let Err(problem) = runner.release(&resource).await {
                tracing::warn!(resource = resource.name, %problem, "a setting of anshin stays until the next boot");
            }
        });
    }

    pub(super) fn note_operation(&mut self, order: &Order, result: &OperationResult, well: bool) {
        let what = match (order.operation.as_str(), well) {
            ("start", true) => "started",
            ("stop", true) => "stopped",
            ("start", false) => "could not be started",
            ("stop", false) => "could not be stopped",
            (_, false) if order.interval.0 > 0 => "failed",
            _ => return,
        };
        let reason = result
            .reason
            .clone()
            .unwrap_or_else(|| if well { String::new() } else { result.rc.words().into() });
        let took = if well { format!("in {}", result.duration) } else { reason };
        self.note(&order.resource, what, &took);
    }

    /// Looks again after the interval. There is one such watch per monitor: a newer one replaces what still sleeps.
    pub(super) fn repeat(&mut self, order: Order) {
        self.watch_last += 1;
        let watch = self.watch_last;
        self.watches.insert((order.resource.clone(), order.interval), watch);
        let events = self.setup.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(order.interval.0)).await;
            let _ = events.send(Event::MonitorDue(watch, order)).await;
        });
    }

    pub(super) fn monitor_due(&mut self, watch: u64, order: Order) {
        let key = (order.resource.clone(), order.interval);
        if self.watches.get(&key) != Some(&watch) {
            return;
        }
        if !self.local.recurs(&order.resource, order.interval) {
            self.watches.remove(&key);
        } else if self.busy.contains_key(&order.resource) || self.rests_on_lost_lease(&order) {
            self.repeat(order);
        } else {
            self.run_order(None, order);
        }
    }

    /// While a volume holds its I/O, or is being taken down, what stands on it looks broken: that is the volume's
    /// matter and no failure of theirs (R12).
    fn rests_on_lost_lease(&self, order: &Order) -> bool {
        if matches!(order.work, Work::Volume { .. }) {
            return false;
        }
        let Some((name, _)) = order.resource.rsplit_once('.') else { return false };
        let service = services(&self.world.state).into_iter().find(|service| service.name == name);
        let here = service.and_then(|service| service.volume).and_then(|volume| self.volumes.get(&volume));
        here.is_some_and(|here| {
            here.cleaning || here.suspended || !here.status.as_ref().is_some_and(volumes::serves)
        })
    }
}

async fn run_operation(runner: &Runner, paths: &Paths, order: &Order) -> OperationResult {
    let limit = Duration::from_millis(order.timeout.0);
    match &order.work {
        Work::Volume { volume } => match order.operation.as_str() {
            "start" => volumes::start(paths, volume, limit).await,
            "stop" => volumes::stop(paths, volume, limit).await,
            _ => volumes::monitor(paths, volume).await,
        },
        Work::Agent(resource) => {
            let action = match order.operation.as_str() {
                "start" => Action::Start,
                "stop" => Action::Stop,
                "monitor" => Action::Monitor,
                other => {
                    let why = format!("there is no operation `{other}`");
                    return OperationResult::failed(Rc::UNIMPLEMENTED, Status::Error, why);
                }
            };
            if action == Action::Start
                && let Some(mount) = order.needs_mount.as_ref()
                && !release::is_mounted(Path::new(mount))
            {
                let why = format!("{mount} is not mounted here");
                return OperationResult::failed(Rc::GENERIC, Status::Error, why);
            }
            if action == Action::Start
                && let Some(mount) = order.needs_mount.clone()
                && let Err(problem) = restored(mount, order.resource.clone(), limit).await
            {
                return OperationResult::from_problem(Rc::GENERIC, Status::Error, problem);
            }
            if action == Action::Start
                && resource.kind == "Filesystem"
                && let Err(problem) = volumes::prepare(resource).await
            {
                return OperationResult::from_problem(Rc::GENERIC, Status::Error, problem);
            }
            let operation = Operation::new(action).within(order.timeout).every(order.interval);
            let result = runner.run(resource, &operation).await;
            match action {
                Action::Stop if result.rc != Rc::OK => {
                    runner.stop_by_force(resource, result, volumes::RELEASE_LIMIT).await
                }
                _ => result,
            }
        }
    }
}

/// Puts restored data that waits for the start of this resource where it belongs.
async fn restored(mount: String, resource: String, limit: Duration) -> Result<(), Problem> {
    let failed = |why: String| Problem::new("restore-place", why);
    let swapped = tokio::task::spawn_blocking(move || swap::before_start(Path::new(&mount), &resource));
    let swapped = tokio::time::timeout(limit, swapped).await;
    let swapped = swapped.map_err(|_| failed("the volume does not answer".into()))?;
    if let Some(swap) = swapped.map_err(|error| failed(error.to_string()))?? {
        tracing::info!(
            resource = swap.resource,
            place = %swap.place.display(),
            before = %swap.before.display(),
            "restored data is put in place"
        );
    }
    Ok(())
}
