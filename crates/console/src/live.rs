//! Streams: what happens, for programs; and the page's living part, for browsers.

use crate::{
    answer::{ProblemSchema, Refusal},
    page,
    serve::Shared,
};
use anshin_base::Problem;
use anshin_node::view::Happening;
use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt, stream};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast},
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::BroadcastStream;

/// The page is looked at anew this often, and at once when something happened.
const BEAT: Duration = Duration::from_secs(1);

fn permit(shared: &Shared) -> Result<OwnedSemaphorePermit, Refusal> {
    let permit = Arc::clone(&shared.streams).try_acquire_owned();
    permit.map_err(|_| {
        Refusal(Problem::new("streams-busy", "too many pages and programs are watching this node"))
    })
}

/// What happens from now on, one JSON object per server-sent event. An event named `lost` says how many were missed.
#[utoipa::path(get, path = "/api/v1/events", tag = "site",
    responses((status = 200, content_type = "text/event-stream", body = Happening), (status = "default", body = ProblemSchema)))]
pub async fn events(
    State(shared): State<Shared>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let permit = permit(&shared)?;
    let happenings = BroadcastStream::new(shared.control.events()).map(move |happening| {
        let _held_while_streaming = &permit;
        Ok(match happening {
            Ok(happening) => Event::default().event("happening").json_data(happening).unwrap_or_default(),
            Err(tokio_stream::wrappers::errors::BroadcastStreamRecvError::Lagged(count)) => {
                Event::default().event("lost").data(count.to_string())
            }
        })
    });
    Ok(Sse::new(happenings).keep_alive(KeepAlive::default()))
}

struct Watcher {
    shared: Shared,
    happenings: broadcast::Receiver<Happening>,
    beat: tokio::time::Interval,
    last: String,
    _permit: OwnedSemaphorePermit,
}

/// The living part of the page: an event `main` with its new HTML when it changed, and an event `beat` with the time
/// of the facts every second, so that the page can tell when it has lost its node.
pub async fn page(
    State(shared): State<Shared>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let permit = permit(&shared)?;
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let happenings = shared.control.events();
    let watcher = Watcher { shared, happenings, beat, last: String::new(), _permit: permit };
    let batches = stream::unfold(watcher, |mut watcher| async move {
        watcher.wait().await;
        Some((stream::iter(watcher.look().await), watcher))
    });
    Ok(Sse::new(batches.flatten()))
}

impl Watcher {
    /// Until the next beat or happening, whichever is first.
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.beat.tick() => {}
            happening = self.happenings.recv() => match happening {
                // Only the beat is left when the sender is gone, and a flood of happenings is one look.
                Err(broadcast::error::RecvError::Closed) => { self.beat.tick().await; }
                _ => while self.happenings.try_recv().is_ok() {},
            }
        }
    }

    async fn look(&mut self) -> Vec<Result<Event, Infallible>> {
        // Without a status there is no beat either: the page then says itself how old it is.
        let Ok(status) = self.shared.control.status().await else {
            return Vec::new();
        };
        let at = page::clock(&status.facts.at);
        let mut events = Vec::new();
        match page::render_main(&status) {
            Ok(html) if html != self.last => {
                events.push(Ok(Event::default().event("main").data(&html)));
                self.last = html;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!("the page cannot be made: {error}");
                return Vec::new();
            }
        }
        events.push(Ok(Event::default().event("beat").data(at)));
        events
    }
}
