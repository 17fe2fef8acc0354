//! Carrying out what the core puts out.

use super::Engine;
use crate::{
    control::{Reply, Request, Resynced, VolumeEvent},
    front::{FRONTS, FUSE, Front, POINT},
};
use anshin_base::lease::LeaseRecord;
use anshin_mirror::{Event, FrontError, Output, RequestId};
use bytes::Bytes;
use std::os::unix::fs::FileExt;

impl Engine {
    /// Everything in `outputs`, in order.
    pub(super) fn carry_out(&mut self) {
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            self.carry_out_one(output);
        }
        // The memory is used again; nothing was put out meanwhile, for only the core puts out.
        self.outputs = outputs;
    }

    fn carry_out_one(&mut self, output: Output) {
        let (io, inputs) = (&mut self.io, &mut self.inputs);
        match output {
            Output::DiskRead { token, region, offset, length } => {
                self.disk.read(io, token, region, offset, length)
            }
            Output::DiskWrite { token, region, offset, data } => {
                self.disk.write(io, token, region, offset, data)
            }
            Output::DiskZero { token, offset, length, unmap } => {
                self.disk.zero(io, token, offset, length, unmap)
            }
            Output::DiskFlush { token, region } => self.disk.flush(io, token, region),
            Output::Send { link, message } => self.peers.send(link, &message, inputs),
            Output::Close { link, why } => self.peers.close(link.0, &why, inputs),
            Output::Propose { request, change } => self.voter.propose(io, request, change, inputs),
            Output::FrontDone { id, result } => self.answer_front(id, result),
            Output::Report(report) => self.voter.report(io, report, inputs),
            Output::Lease(record) => self.write_lease(&record),
            Output::WakeAt(at) => self.wake_at = Some(at),
            Output::Event(event) => self.happened(event),
        }
    }

    fn answer_front(&mut self, id: RequestId, result: Result<Bytes, FrontError>) {
        if id.0 % FRONTS == POINT {
            return self.point_fetched(id, result);
        }
        if self.stats.end(self.io.now(), id) {
            self.points.answered();
        }
        if id.0 % FRONTS == FUSE {
            if let Some(fuse) = &mut self.fuse {
                fuse.answer(&mut self.io, id, result);
            }
        } else if let Some(nbd) = &mut self.nbd {
            nbd.answer(&mut self.io, id, result);
        }
    }

    /// One write of 64 bytes to tmpfs: it neither blocks nor tears for the reader's checksum not to notice.
    fn write_lease(&mut self, record: &LeaseRecord) {
        if let Err(error) = self.lease.write_all_at(&record.encode(), 0) {
            tracing::error!(%error, "cannot write the lease record");
        }
    }

    fn happened(&mut self, event: Event) {
        let told = match event {
            Event::Serve { generation } => {
                tracing::info!(%generation, "serving");
                self.points.set_primary(true);
                self.set_up();
                VolumeEvent::Serve { generation: generation.0 }
            }
            Event::Suspended { why } => {
                tracing::warn!(why, "requests are held");
                VolumeEvent::Suspended { why }
            }
            Event::Resumed => {
                tracing::info!("requests flow again");
                VolumeEvent::Resumed
            }
            Event::Deposed { generation } => {
                tracing::warn!(%generation, "another primary is recorded; waiting for the device to be given up");
                self.points.set_primary(false);
                self.points_end("another node is the primary now");
                VolumeEvent::Deposed { generation: generation.0 }
            }
            Event::Demoted => {
                tracing::info!("the hand-over is recorded");
                self.points.set_primary(false);
                self.points_end("the volume was handed over");
                self.answer_waiting(&[Request::Demote], &Reply::Done);
                if self.device.exists() {
                    self.tear_down(false);
                }
                VolumeEvent::Demoted
            }
            Event::Quiesced => {
                self.answer_waiting(&[Request::Quiesce], &Reply::Done);
                VolumeEvent::Quiesced
            }
            Event::ResyncDone { target, compared, sent } => {
                tracing::info!(%target, compared, sent, "resync done");
                let known = self.resynced.entry(target).or_insert_with(|| Resynced::none(target));
                known.add(compared, sent);
                VolumeEvent::ResyncDone { target, compared, sent }
            }
            Event::OldImage { replica, presented, seen } => {
                tracing::error!(%replica, presented, seen, "a replica is a restored old image");
                VolumeEvent::OldImage { replica, presented, seen }
            }
            Event::Failed { why } => {
                tracing::error!(why, "the replica failed");
                self.points.set_primary(false);
                self.points_end("the replica failed");
                VolumeEvent::Failed { why }
            }
            Event::Note(text) => {
                tracing::info!("{text}");
                VolumeEvent::Note { text }
            }
        };
        self.tell(&told);
    }
}
