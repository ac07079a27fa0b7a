//! Reactors: one pinned thread per configured core that polls everything it owns.
//!
//! A turn of a reactor ([`Reactor::turn`]) does the following, in this order: ask which file
//! descriptors are ready (one `epoll_wait` that never sleeps while there is work), take mail from
//! other threads, fire timers, run the local tasks that are ready, and poll every poller once in
//! the order in which they were added. A reactor shares nothing with another thread except its
//! [`Mailbox`](mail::ReactorHandle), so nothing on the I/O path takes a lock.
//!
//! **Idle.** [`IdlePolicy::Poll`] never sleeps. [`IdlePolicy::Adaptive`] blocks in `epoll_wait`
//! after a configured time without work. Sockets, device completions (each bdev's wake descriptor),
//! mail and the next timer all end that wait. Mail and sleep cannot miss each other: the reactor
//! announces that it sleeps and then checks the mailbox once more. A sender posts first and then
//! checks whether the reactor sleeps.
//!
//! **Bounds.** The mailbox holds [`mail::MAIL_BOUND`] messages, then senders are refused. Mail and
//! tasks per turn are bounded, so no flood starves the pollers. A turn longer than
//! [`ReactorConfig::turn_limit`] is counted and reported, and
//! [`ReactorHandle::turn_age`](mail::ReactorHandle::turn_age) lets another thread detect a turn
//! that does not end.

mod cores;
mod events;
mod executor;
pub mod mail;
mod run;
#[cfg(test)]
mod tests;
mod timers;

pub use cores::{CORES_MAX, Cores, CoresError};
pub use events::{Interest, Source};
pub use executor::{JoinError, JoinHandle, yield_now};
pub use mail::{CallError, Doing, ReactorHandle};
pub use run::{
    IdlePolicy, Local, PollerId, Reactor, ReactorConfig, ReactorStats, block_on, current_core_count,
};
pub use timers::Sleep;
