//! The one data loop: a reader fills batches on one side, a writer empties them on the other.

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::connector::{Reader, Writer, Written};
use crate::data::{Batch, Error, Result};

/// One batch being read, one waiting, one being written: all the memory a table takes.
const BATCHES: usize = 3;

/// Is told what became of each batch, in order, and may end the load with an error.
#[async_trait]
pub trait Account: Send {
    async fn wrote(&mut self, batch: &Batch, written: Written) -> Result<()>;
}

/// Moves every row from the reader to the writer and makes them durable. Source and target work at the same time;
/// batches are handed over one at a time and reused. Dropping the future stops both sides.
pub async fn pump(reader: Box<dyn Reader>, writer: &mut dyn Writer, account: &mut dyn Account) -> Result<()> {
    let (empty, to_fill) = mpsc::channel(BATCHES);
    let (full, mut to_write) = mpsc::channel(1);
    for _ in 0..BATCHES {
        // There is room for all of them.
        let _ = empty.try_send(Batch::new());
    }
    let filling = AbortOnDrop(tokio::spawn(fill(reader, to_fill, full)));
    while let Some(batch) = to_write.recv().await {
        let batch: Batch = batch?;
        let written = writer.write(&batch).await?;
        account.wrote(&batch, written).await?;
        // The reader may have ended and need no more batches.
        let _ = empty.send(batch).await;
    }
    filling.join().await?;
    let written = writer.finish().await?;
    account.wrote(&Batch::new(), written).await
}

async fn fill(mut reader: Box<dyn Reader>, mut to_fill: mpsc::Receiver<Batch>, full: mpsc::Sender<Result<Batch>>) {
    while let Some(mut batch) = to_fill.recv().await {
        let outcome = match reader.next(&mut batch).await {
            Ok(true) => Ok(batch),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        let failed = outcome.is_err();
        if full.send(outcome).await.is_err() || failed {
            return;
        }
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    /// Waits for the reader to end. One that panicked must not pass for one that has read everything.
    async fn join(mut self) -> Result<()> {
        (&mut self.0).await.map_err(|_| Error::fatal("the source reader ended unexpectedly"))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::data::{Format, Value};

    /// Reads `batches` batches of one row each, then ends, fails or panics.
    struct Counting {
        batches: usize,
        read: Arc<AtomicUsize>,
        end: fn() -> Result<bool>,
    }

    #[async_trait]
    impl Reader for Counting {
        async fn next(&mut self, batch: &mut Batch) -> Result<bool> {
            batch.clear(Format::Values);
            let count = self.read.load(Ordering::SeqCst);
            if count == self.batches {
                return (self.end)();
            }
            batch.push(Value::Int(count as i64));
            batch.end_row();
            self.read.store(count + 1, Ordering::SeqCst);
            Ok(true)
        }
    }

    /// Takes so many batches, then stands still for ever.
    struct Holding {
        taken: usize,
        takes: usize,
    }

    #[async_trait]
    impl Writer for Holding {
        async fn write(&mut self, batch: &Batch) -> Result<Written> {
            if self.taken == self.takes {
                std::future::pending::<()>().await;
            }
            self.taken += 1;
            Ok(Written { rows: batch.rows() as u64, rejected: Vec::new() })
        }

        async fn finish(&mut self) -> Result<Written> {
            Ok(Written::default())
        }
    }

    #[derive(Default)]
    struct Sum(u64);

    #[async_trait]
    impl Account for Sum {
        async fn wrote(&mut self, _: &Batch, written: Written) -> Result<()> {
            self.0 += written.rows;
            Ok(())
        }
    }

    fn reader(batches: usize, end: fn() -> Result<bool>) -> (Box<dyn Reader>, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        (Box::new(Counting { batches, read: read.clone(), end }), read)
    }

    #[tokio::test]
    async fn moves_every_row() {
        let (reader, _) = reader(1000, || Ok(false));
        let mut sum = Sum::default();
        pump(reader, &mut Holding { taken: 0, takes: usize::MAX }, &mut sum).await.unwrap();
        assert_eq!(sum.0, 1000);
    }

    #[tokio::test]
    async fn a_target_that_stands_still_stops_the_source_at_three_batches() {
        let (reader, read) = reader(usize::MAX, || Ok(false));
        let mut writer = Holding { taken: 0, takes: 10 };
        let mut sum = Sum::default();
        let pumping = pump(reader, &mut writer, &mut sum);
        // Virtual time is not needed: once nothing can move any more, a bounded number of turns changes nothing.
        tokio::pin!(pumping);
        for _ in 0..1000 {
            assert!(futures_util::poll!(pumping.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(read.load(Ordering::SeqCst), 10 + BATCHES);
    }

    #[tokio::test]
    async fn what_was_read_before_an_error_is_written_and_the_error_is_told() {
        let (reader, _) = reader(5, || Err(Error::recoverable("gone")));
        let mut sum = Sum::default();
        let error = pump(reader, &mut Holding { taken: 0, takes: usize::MAX }, &mut sum).await.unwrap_err();
        assert_eq!((sum.0, error.message.as_str()), (5, "gone"));
    }

    #[tokio::test]
    async fn a_reader_that_panics_does_not_pass_for_a_finished_one() {
        let (reader, _) = reader(2, || panic!("on purpose"));
        let mut sum = Sum::default();
        let outcome = pump(reader, &mut Holding { taken: 0, takes: usize::MAX }, &mut sum).await;
        assert!(outcome.is_err());
    }
}
