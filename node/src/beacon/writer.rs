//! Brings changes of the records to disk, in batches, on a thread where waiting for a disk stops nobody.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tracing::warn;

use super::records::Records;
use crate::store::records::{Change, RecordFile, RecordsError};

/// *Chosen*: changes of one batch; 1,024 slot records are 1.2 MB and take some tens of milliseconds.
const BATCH_MAX: usize = 1_024;
/// *Chosen*: rest after a batch that the system refused, such as a full disk.
const REST: Duration = Duration::from_secs(60);

/// The file, or the batch that has it.
#[derive(Debug)]
pub(super) struct Writer {
    file: Option<RecordFile>,
    batch: Option<JoinHandle<Batch>>,
    /// Changes in the batch.
    under_way: usize,
    rest_until: Option<Instant>,
}

type Batch = (RecordFile, Vec<Change>, Result<(), RecordsError>);

impl Writer {
    /// A writer to `file`.
    pub(super) fn new(file: RecordFile) -> Self {
        Self { file: Some(file), batch: None, under_way: 0, rest_until: None }
    }

    /// Starts the next batch, if there are changes and none is under way.
    pub(super) fn start(&mut self, records: &mut Records, now: Instant) {
        if self.rest_until.is_some_and(|until| now < until) {
            return;
        }
        let Some(mut file) = self.file.take() else { return };
        let changes = records.changes(BATCH_MAX);
        if changes.is_empty() {
            self.file = Some(file);
            return;
        }
        self.under_way = changes.len();
        self.batch = Some(tokio::task::spawn_blocking(move || {
            let written = file.write(&changes);
            (file, changes, written)
        }));
    }

    /// Changes that are on their way to disk.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Waits for the end of the batch; for ever if there is none. Dropping the wait loses nothing.
    pub(super) async fn finished(&mut self) -> Option<(Vec<Change>, Result<(), RecordsError>)> {
        let batch = match &mut self.batch {
            Some(batch) => batch.await,
            None => std::future::pending().await,
        };
        (self.batch, self.under_way) = (None, 0);
        match batch {
            Ok((file, changes, written)) => {
                self.file = Some(file);
                Some((changes, written))
            }
            Err(error) => {
                warn!(%error, "records are kept in memory only: the writer is gone");
                None
            }
        }
    }

    /// Takes what a batch came to.
    pub(super) fn on_finished(
        &mut self,
        records: &mut Records,
        (changes, written): (Vec<Change>, Result<(), RecordsError>),
        now: Instant,
    ) {
        match written {
            Ok(()) => {}
            Err(RecordsError::SetAside(aside)) => {
                warn!(aside = %aside.display(), "the records on disk were damaged and are written anew");
                records.all_unwritten();
            }
            Err(error @ RecordsError::Unusable { .. }) => {
                warn!(%error, "records are kept in memory only for now");
                records.unwritten(&changes);
                self.rest_until = Some(now + REST);
            }
        }
    }

    /// Brings everything that is left to disk; gives up at the first failure.
    pub(super) async fn close(&mut self, records: &mut Records) {
        if self.batch.is_some()
            && let Some(finished) = self.finished().await
        {
            self.on_finished(records, finished, Instant::now());
        }
        self.rest_until = None;
        loop {
            self.start(records, Instant::now());
            if self.batch.is_none() {
                return;
            }
            match self.finished().await {
                Some((_, Ok(()))) => {}
                Some((_, Err(error))) => {
                    warn!(%error, "not all records were written");
                    return;
                }
                None => return,
            }
        }
    }
}
