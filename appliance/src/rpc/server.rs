//! The server of the command plane: one thread that accepts and one thread per connection, none of
//! them a reactor's thread.
//!
//! A call may take as long as it needs without delaying other connections, and the command plane
//! answers while every reactor is busy. No client can harm another:
//! - at most [`MAX_CONNECTIONS`], fewer if file descriptors are scarce; at the limit the server
//!   makes room by closing the connection that has been idle longest, or else, after an error
//!   answer, the one that has waited longest for the rest of its request; when all are executing
//!   calls, new connections wait in the backlog;
//! - a request that has begun must be complete within [`RpcServerConfig::request_timeout`], or its
//!   connection gets an error and is closed;
//! - the client must receive an answer within [`RpcServerConfig::write_timeout`], or its connection
//!   is closed;
//! - bytes that are not JSON get one error, and the connection is closed, because nothing marks the
//!   start of the next request.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::{SendFlags, send as send_now};

use super::error::RpcError;
use super::framing::{Framer, FramingError};
use super::protocol::{self, Dispatch};
use super::socket::{SocketError, SocketFile};
use crate::audit::Caller;
use crate::descriptors;

/// The maximum number of connections at a time (SPDK's limit).
pub const MAX_CONNECTIONS: usize = 64;

/// How many bytes one read asks for.
const READ_BYTES: usize = 64 * 1024;

/// How long [`RpcServer::stop`] waits for running calls.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How long accepting pauses when there is no room, or the system has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the log repeats that nothing can be accepted.
const SAY_AGAIN: Duration = Duration::from_mins(1);

/// At the limit, a connection may be closed after it has been idle for this time: a new client must
/// have the time to begin a request.
const IDLE_PATIENCE: Duration = Duration::from_millis(100);

/// At the limit, a connection may be closed after it has waited for the rest of a request for this
/// time.
const HALF_PATIENCE: Duration = Duration::from_secs(1);

/// The niceness of a connection's thread, which makes it yield to reactors on a shared core.
/// Formatting a long list takes milliseconds, and several clients may request one at once.
const NICENESS: i32 = 10;

/// The configuration of the command plane.
#[derive(Debug, Clone)]
pub struct RpcServerConfig {
    /// The Unix socket; its directory must exist.
    pub socket: PathBuf,
    /// How long a request may take to arrive once it has begun.
    pub request_timeout: Duration,
    /// How long a client may take to accept an answer.
    pub write_timeout: Duration,
}

impl RpcServerConfig {
    /// The defaults for a socket: 60 s for a request to arrive, 30 s for the client to receive an
    /// answer.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        RpcServerConfig {
            socket: socket.into(),
            request_timeout: Duration::from_mins(1),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// A command plane whose socket is bound, and whose clients wait until it serves. Dropping it
/// removes the socket's file.
#[derive(Debug)]
pub struct BoundRpcServer {
    config: RpcServerConfig,
    socket: SocketFile,
}

impl BoundRpcServer {
    /// Binds the socket.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(config: RpcServerConfig) -> Result<Self, SocketError> {
        let socket = SocketFile::bind(&config.socket)?;
        Ok(BoundRpcServer { config, socket })
    }

    /// Serves the socket with `dispatch` from threads of its own.
    ///
    /// # Errors
    /// [`SocketError::Io`]: the system provides no thread or descriptor.
    pub fn serve(self, dispatch: Arc<dyn Dispatch>) -> Result<RpcServer, SocketError> {
        let BoundRpcServer { config, socket } = self;
        let path = socket.path().to_owned();
        let io_error = |action| {
            let path = path.clone();
            move |source: io::Error| SocketError::Io { action, path, source }
        };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| io_error("watch")(error.into()))?;
        let shared = Arc::new(Shared {
            config,
            connections: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            wake,
        });
        let accept_shared = Arc::clone(&shared);
        let acceptor = thread::Builder::new()
            .name("rpc".to_owned())
            .spawn(move || accept_all(&accept_shared, &socket, &dispatch))
            .map_err(io_error("start a thread for"))?;
        Ok(RpcServer { shared, acceptor: Some(acceptor), path })
    }
}

/// A running command plane. Dropping it stops it.
#[derive(Debug)]
pub struct RpcServer {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl RpcServer {
    /// Binds the socket and serves it with `dispatch` from its own threads.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn start(config: RpcServerConfig, dispatch: Arc<dyn Dispatch>) -> Result<Self, SocketError> {
        BoundRpcServer::bind(config)?.serve(dispatch)
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many connections are open.
    pub fn connection_count(&self) -> usize {
        self.shared.table().open.len()
    }

    /// Stops accepting, removes the socket file, and waits up to 2 s for running calls to be
    /// answered.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The counter cannot overflow: it is written once.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
        // The thread returns no result; a panic in it was reported when it happened.
        let _ = acceptor.join();
        let table = self.shared.table();
        for connection in table.open.values() {
            // Only reading ends, so that pending answers can still be written.
            let _ = connection.stream.shutdown(Shutdown::Read);
        }
        let waited =
            self.shared.changed.wait_timeout_while(table, STOP_GRACE, |table| !table.open.is_empty());
        let (table, _) = waited.unwrap_or_else(PoisonError::into_inner);
        for connection in table.open.values() {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for RpcServer {
    fn drop(&mut self) {
        self.shut_down();
    }
}

#[derive(Debug)]
struct Shared {
    config: RpcServerConfig,
    connections: Mutex<Table>,
    changed: Condvar,
    stopping: AtomicBool,
    wake: OwnedFd,
}

/// The open connections, at most [`MAX_CONNECTIONS`].
#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Connection>,
    next_id: u64,
}

#[derive(Debug)]
struct Connection {
    stream: Arc<UnixStream>,
    state: State,
}

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has waited since then for a request to begin.
    Idle(Instant),
    /// A request began then and is not complete yet.
    Half(Instant),
    /// A call is executing, or its answer is being sent.
    AtWork,
}

impl Connection {
    /// Whether it may be closed at the limit; the connection with the lowest value is closed first.
    fn gives_way(&self) -> Option<(bool, Instant)> {
        match self.state {
            State::Idle(since) if since.elapsed() >= IDLE_PATIENCE && !self.has_input() => {
                Some((false, since))
            }
            State::Half(since) if since.elapsed() >= HALF_PATIENCE => Some((true, since)),
            State::Idle(_) | State::Half(_) | State::AtWork => None,
        }
    }

    /// Whether the socket has input that its thread has not read yet.
    fn has_input(&self) -> bool {
        !descriptors::events_now(&*self.stream, PollFlags::IN).is_empty()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // No update is left unfinished under the lock, so after a panic elsewhere the table is
        // still correct.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_state(&self, id: u64, state: State) {
        if let Some(connection) = self.table().open.get_mut(&id) {
            connection.state = state;
        }
    }

    /// Makes room for one more connection; `false` when all are executing calls.
    fn make_room(&self) -> bool {
        let mut table = self.table();
        if table.open.len() < descriptors::callers(MAX_CONNECTIONS) {
            return true;
        }
        let candidates =
            table.open.iter().filter_map(|(id, connection)| Some((connection.gives_way()?, *id)));
        let Some(((is_half, _), id)) = candidates.min() else { return false };
        if let Some(connection) = table.open.remove(&id) {
            if is_half {
                let reason = "the request was not complete, and others wait; the connection is closed";
                refuse(&connection.stream, &RpcError::InvalidRequest { reason: reason.to_owned() });
            }
            // Its thread sees the end of the stream and exits.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        true
    }

    /// Waits up to [`ACCEPT_PAUSE`] for a connection to end.
    fn await_room(&self) {
        drop(self.changed.wait_timeout(self.table(), ACCEPT_PAUSE));
    }

    /// Adds a connection to the table.
    fn admit(&self, stream: &Arc<UnixStream>) -> u64 {
        let mut table = self.table();
        let id = table.next_id;
        table.next_id = id.wrapping_add(1);
        let state = State::Idle(Instant::now());
        table.open.insert(id, Connection { stream: Arc::clone(stream), state });
        id
    }

    fn dismiss(&self, id: u64) {
        self.table().open.remove(&id);
        self.changed.notify_all();
    }
}

/// Removes a connection from the table however its thread ends.
struct Admission {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.dismiss(self.id);
    }
}

fn accept_all(shared: &Arc<Shared>, socket: &SocketFile, dispatch: &Arc<dyn Dispatch>) {
    let mut said: Option<Instant> = None;
    while !shared.stopping.load(Ordering::SeqCst) {
        let mut fds = [
            PollFd::new(&socket.listener, PollFlags::IN),
            PollFd::from_borrowed_fd(shared.wake.as_fd(), PollFlags::IN),
        ];
        // After an interruption both are polled again.
        if poll(&mut fds, None).is_err() || fds[0].revents().is_empty() {
            continue;
        }
        if !shared.make_room() {
            shared.await_room();
            continue;
        }
        match socket.listener.accept() {
            Ok((stream, _)) => begin(shared, stream, dispatch),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                    said = Some(Instant::now());
                    tracing::warn!(%error, "the command plane cannot accept a connection; it tries again");
                }
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Lowers the priority of the calling thread below that of the reactors. If the system refuses, the
/// priority stays.
fn give_way() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICENESS) {
        tracing::debug!(%error, "a thread of the command plane cannot give way");
    }
}

fn begin(shared: &Arc<Shared>, stream: UnixStream, dispatch: &Arc<dyn Dispatch>) {
    let stream = Arc::new(stream);
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_write_timeout(Some(shared.config.write_timeout)));
    if let Err(error) = ready {
        tracing::warn!(%error, "the command plane cannot set up a connection");
        return;
    }
    let id = shared.admit(&stream);
    let admission = Admission { shared: Arc::clone(shared), id };
    let refused = Arc::clone(&stream);
    let dispatch = Arc::clone(dispatch);
    let spawned = thread::Builder::new().name(format!("rpc-{id}")).spawn(move || {
        give_way();
        let shared = Arc::clone(&admission.shared);
        let ended = serve(&shared, admission.id, &stream, &*dispatch);
        // Shut down before the place in the table is released, so that no connection is open but
        // uncounted.
        let _ = stream.shutdown(Shutdown::Both);
        drop(admission);
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection of the command plane ended early");
        }
    });
    if let Err(error) = spawned {
        let reason = format!("no thread for another connection ({error}); try again");
        refuse(&refused, &RpcError::Internal { reason });
    }
}

/// Sends the reason why a connection is closed, unless that would block.
fn refuse(stream: &UnixStream, error: &RpcError) {
    // It does not matter if the client is gone or does not receive it.
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = send_now(stream, &protocol::anonymous_refusal(error), flags);
}

/// Serves one connection until it ends.
fn serve(shared: &Shared, id: u64, stream: &UnixStream, dispatch: &dyn Dispatch) -> io::Result<()> {
    let caller = Caller::of(stream);
    let mut framer = Framer::new();
    let mut chunk = vec![0; READ_BYTES];
    let mut began: Option<Instant> = None;
    loop {
        let left = began.map(|began| shared.config.request_timeout.saturating_sub(began.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            let reason = format!(
                "the request was not complete within {} s; the connection is closed",
                shared.config.request_timeout.as_secs()
            );
            return send(stream, &protocol::anonymous_refusal(&RpcError::InvalidRequest { reason }));
        }
        stream.set_read_timeout(left)?;
        let count = match (&*stream).read(&mut chunk) {
            Ok(0) if framer.is_partial() => {
                let reason = "the connection's end came within a request".to_owned();
                return send(stream, &protocol::anonymous_refusal(&RpcError::Parse { reason }));
            }
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if is_passing(&error) => continue,
            Err(error) => return Err(error),
        };
        shared.set_state(id, State::AtWork);
        framer.push(chunk.get(..count).unwrap_or_default());
        loop {
            match framer.next_value() {
                Ok(Some(request)) => {
                    began = None;
                    if let Some(answer) = protocol::answer(request, &caller, dispatch) {
                        send(stream, &answer)?;
                    }
                }
                Ok(None) => break,
                Err(error) => return send(stream, &protocol::anonymous_refusal(&framing_refusal(&error))),
            }
        }
        if framer.is_partial() {
            shared.set_state(id, State::Half(*began.get_or_insert_with(Instant::now)));
        } else {
            began = None;
            shared.set_state(id, State::Idle(Instant::now()));
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn framing_refusal(error: &FramingError) -> RpcError {
    match error {
        FramingError::TooLong => RpcError::InvalidRequest { reason: error.to_string() },
        FramingError::UnexpectedByte { .. } | FramingError::TooDeep => {
            RpcError::Parse { reason: error.to_string() }
        }
    }
}

/// Sends a whole answer. The write timeout bounds each wait, and the deadline here bounds their
/// sum.
fn send(mut stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    let timeout = stream.write_timeout()?.unwrap_or(Duration::MAX);
    let began = Instant::now();
    while !bytes.is_empty() {
        let count = stream.write(bytes)?;
        bytes = bytes.get(count..).unwrap_or_default();
        if !bytes.is_empty() && began.elapsed() > timeout {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}
