//! How a busy stream is read.
//!
//! The server sends each change as a message of its own, and reading keeps up with it: then every change wakes both sides
//! up, which costs several times what the change itself does. While many come, a moment is let pass before more is read.

use std::time::Duration;

use tokio::time::Instant;

/// Over this time messages are counted.
const WINDOW: Duration = Duration::from_millis(10);

/// So many in a window make a stream busy: 10,000 a second.
const BUSY_MESSAGES: u32 = 100;

/// The moment that is let pass. In so long a busy server fills the connection: what it sends beyond that goes on its way
/// later, in a few large portions, which takes it half the time of many small ones.
pub const MOMENT: Duration = Duration::from_millis(4);

/// Where a read gives so much there is more: the connection was full, and the server waits. Then no moment is let pass.
pub const BACKLOG_BYTES: usize = 32 << 10;

pub struct Pace {
    since: Instant,
    messages: u32,
    busy: bool,
}

impl Pace {
    pub fn new() -> Pace {
        Pace { since: Instant::now(), messages: 0, busy: false }
    }

    pub fn count(&mut self) {
        self.messages += 1;
    }

    /// Whether it pays to wait for more; asked when there is nothing to read.
    pub fn is_busy(&mut self) -> bool {
        let now = Instant::now();
        let passed = now - self.since;
        if passed >= WINDOW {
            // A pause ends it, however much came before.
            self.busy = self.messages >= BUSY_MESSAGES && passed < 2 * WINDOW;
            (self.since, self.messages) = (now, 0);
        }
        self.busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_messages_make_it_busy_until_there_are_few() {
        let mut pace = Pace::new();
        let mut after = async |messages: u32| {
            (0..messages).for_each(|_| pace.count());
            tokio::time::advance(WINDOW).await;
            pace.is_busy()
        };
        assert!(!after(20).await);
        assert!(after(BUSY_MESSAGES).await);
        assert!(after(5 * BUSY_MESSAGES).await);
        assert!(!after(BUSY_MESSAGES - 1).await);
    }
}
