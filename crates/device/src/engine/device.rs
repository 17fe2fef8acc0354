//! The device's life (R17): it is made when the core says *serve* and destroyed before the role is given up.
//!
//! ```text
//!            serve             attached
//!   Absent ---------> SettingUp -------> Present
//!     ^                   | failed          | teardown wanted
//!     |                   v                 v
//!     +------------ Failed <---------- TearingDown --(still used)--> Present
//!     +--------------------------------------/ gone
//! ```

use super::{Engine, shared};
use crate::{
    control::{DeviceState, Reply, Request, VolumeEvent},
    front::{
        Front,
        fuse::Fuse,
        loopdev::{Busy, Places},
        nbd::Nbd,
    },
    ring::Fd,
};
use anshin_base::Problem;
use anshin_mirror::{Command, Input};
use rustix::event::{EventfdFlags, eventfd};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, channel},
};

/// What helper threads report.
enum News {
    /// The mount stands: its requests must be answered from now on.
    Mounted,
    /// The loop device is there, or cannot be made.
    Attached(Result<PathBuf, Problem>),
    /// Everything is gone, or still used.
    Detached(Result<(), Problem>),
}

/// See the module.
pub(super) struct Device {
    places: Places,
    state: DeviceState,
    /// Each device has a number, so that nothing of an earlier one is taken for a later one's.
    number: u64,
    tear_down_after_setup: bool,
    sender: Sender<News>,
    receiver: Receiver<News>,
    wake: Fd,
}

impl Device {
    pub(super) fn new(places: Places) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let wake = shared(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (state, number) = (DeviceState::Absent, 0);
        Ok(Self { places, state, number, tear_down_after_setup: false, sender, receiver, wake })
    }

    pub(super) fn wake(&self) -> Fd {
        self.wake.clone()
    }

    pub(super) fn state(&self) -> DeviceState {
        self.state.clone()
    }

    /// What is behind the device, `/dev/loopN`.
    pub(super) fn node(&self) -> Option<PathBuf> {
        match &self.state {
            DeviceState::Present { node, .. } => Some(node.into()),
            _ => None,
        }
    }

    /// Whether there is anything to tear down.
    pub(super) fn exists(&self) -> bool {
        !matches!(self.state, DeviceState::Absent)
    }

    /// Runs `work` in a helper thread that can report.
    fn help(&self, work: impl FnOnce(&Places, &dyn Fn(News)) + Send + 'static) -> io::Result<()> {
        let (sender, places) = (self.sender.clone(), self.places.clone());
        let wake: OwnedFd = self.wake.try_clone()?;
        let report = move |news| {
            let _ = sender.send(news);
            let _ = rustix::io::write(&wake, &1u64.to_ne_bytes());
        };
        let thread = std::thread::Builder::new().name("device".into());
        thread.spawn(move || work(&places, &report)).map(drop)
    }
}

impl Engine {
    /// Makes the NBD socket, and starts making the block device.
    pub(super) fn set_up(&mut self) {
        if self.nbd.is_none() {
            self.device.number += 1;
            match Nbd::open(&self.options.nbd_socket(), self.geometry.clone(), self.device.number) {
                Ok(mut nbd) => {
                    nbd.start(&mut self.io);
                    self.nbd = Some(nbd);
                }
                Err(error) => tracing::error!(%error, "cannot open the NBD socket"),
            }
        }
        if !self.options.block_device
            || !matches!(self.device.state, DeviceState::Absent | DeviceState::Failed { .. })
        {
            return;
        }
        self.device.state = DeviceState::SettingUp;
        if let Err(error) = self.set_up_block_device() {
            self.device_failed(Problem::new(
                "device-setup",
                format!("cannot make the block device: {error}"),
            ));
        }
    }

    fn set_up_block_device(&mut self) -> io::Result<()> {
        let fuse = Fuse::open(self.geometry.clone(), self.device.number)?;
        let fd = fuse.fd().try_clone()?;
        self.fuse = Some(fuse);
        // A page-sized block: no request ever covers half a block of the disk below or of the dirty record.
        let block_bytes = self.geometry.block_bytes.max(4096);
        self.device.help(move |places, report| {
            if let Err(problem) = places.mount(fd.as_fd()) {
                return report(News::Attached(Err(problem)));
            }
            drop(fd);
            report(News::Mounted);
            report(News::Attached(places.attach(block_bytes)));
        })
    }

    /// Destroys the device. With `gently` it refuses also while NBD clients are connected.
    pub(super) fn tear_down(&mut self, gently: bool) {
        let clients = self.nbd.as_ref().map_or(0, Nbd::clients);
        if gently && clients > 0 {
            let message = format!("{clients} NBD clients use the volume");
            return self.torn_down(Err(Problem::new("device-busy", message).hint("disconnect them first")));
        }
        self.points.set_leaving(true);
        self.points_end("the volume's device is being given up");
        match self.device.state {
            DeviceState::SettingUp => self.device.tear_down_after_setup = true,
            DeviceState::TearingDown => {}
            DeviceState::Absent => self.torn_down(Ok(())),
            DeviceState::Present { .. } | DeviceState::Failed { .. } => {
                self.device.state = DeviceState::TearingDown;
                let busy = if gently { Busy::Stays } else { Busy::Goes };
                let started = self.device.help(move |places, report| {
                    let gone = places.check_unused().and_then(|()| places.detach(busy));
                    if gone.is_ok() {
                        places.unmount();
                    }
                    report(News::Detached(gone));
                });
                if let Err(error) = started {
                    self.torn_down(Err(Problem::new("device-teardown", error.to_string())));
                }
            }
        }
    }

    pub(super) fn device_news(&mut self) {
        while let Ok(news) = self.device.receiver.try_recv() {
            match news {
                News::Mounted => {
                    if let Some(fuse) = &mut self.fuse {
                        fuse.start(&mut self.io);
                    }
                }
                News::Attached(Ok(node)) => {
                    let path = self.device.places.device.display().to_string();
                    tracing::info!(path, node = %node.display(), "the device is there");
                    let node = node.display().to_string();
                    self.device.state = DeviceState::Present { path: path.clone(), node };
                    self.tell(&VolumeEvent::DevicePresent { path });
                    if std::mem::take(&mut self.device.tear_down_after_setup) {
                        self.tear_down(false);
                    }
                }
                News::Attached(Err(problem)) => self.device_failed(problem),
                News::Detached(result) => self.torn_down(result),
            }
        }
    }

    /// The kernel broke off the file that the device stands on, which from then on only fails: said, so that it is set up anew.
    pub(super) fn fuse_ended(&mut self, why: &str) {
        if matches!(self.device.state, DeviceState::Present { .. }) {
            let message = format!("the connection of the block device ended: {why}");
            self.device_failed(
                Problem::new("device-ended", message).hint("somebody unmounted or aborted it"),
            );
        }
    }

    fn device_failed(&mut self, problem: Problem) {
        tracing::error!(%problem, "no block device");
        self.device.state = DeviceState::Failed { problem: problem.clone() };
        self.device.places.unmount();
        if let Some(mut fuse) = self.fuse.take() {
            fuse.stop(&mut self.io);
        }
        self.tell(&VolumeEvent::DeviceFailed { problem });
        if std::mem::take(&mut self.device.tear_down_after_setup) {
            self.tear_down(false);
        }
    }

    /// The device is gone, or still used.
    fn torn_down(&mut self, result: Result<(), Problem>) {
        let asking = [Request::Demote, Request::Teardown, Request::Stop];
        if let Err(problem) = result {
            tracing::warn!(%problem, "the device stays");
            self.points.set_leaving(false);
            if let DeviceState::TearingDown = self.device.state {
                let places = &self.device.places;
                let path = places.device.display().to_string();
                let node = places.node().unwrap_or_default().display().to_string();
                self.device.state = DeviceState::Present { path, node };
            }
            return self.answer_waiting(&asking, &Reply::Problem { problem });
        }
        if let Some(mut fuse) = self.fuse.take() {
            fuse.stop(&mut self.io);
        }
        if let Some(mut nbd) = self.nbd.take() {
            nbd.stop(&mut self.io);
        }
        if self.device.exists() {
            tracing::info!("the device is gone");
            self.device.state = DeviceState::Absent;
            self.tell(&VolumeEvent::DeviceGone);
        }
        let wanted = |request| self.waiting.iter().any(|waiting| waiting.request == request);
        if wanted(Request::Stop) {
            self.stopped = true;
        }
        if wanted(Request::Demote) {
            self.inputs.push(Input::Command(Command::Demote));
        }
        if wanted(Request::Teardown) {
            self.inputs.push(Input::Command(Command::DeviceGone));
        }
        self.answer_waiting(&[Request::Teardown, Request::Stop], &Reply::Done);
    }
}
