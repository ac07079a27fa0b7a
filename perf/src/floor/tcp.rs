//! The floor of the network: loopback TCP between two threads, with messages of the sizes that
//! `NVMe`/TCP sends.
//!
//! Both threads poll without sleeping, as the load and a busy appliance do (`spin`). At a depth
//! above 1, both sides move as many messages per system call as are ready.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::FloorResult;
use crate::error::PerfError;
use crate::latency::Recorder;
use crate::machine::{pinned, two_cores};
use crate::spin::Spin;

/// Buffer for messages that arrive together, in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// The messages of one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// `write` or `read`.
    pub name: &'static str,
    /// Bytes from host to controller.
    pub request_bytes: usize,
    /// Bytes from controller to host.
    pub response_bytes: usize,
    /// Bytes of data in them.
    pub payload_bytes: usize,
}

impl Shape {
    /// A write: a capsule (72 bytes) with data in one direction, a response capsule (24 bytes) in
    /// the other.
    pub fn write(payload_bytes: usize) -> Self {
        Shape { name: "write", request_bytes: 72 + payload_bytes, response_bytes: 24, payload_bytes }
    }

    /// A read: a capsule (72 bytes) in one direction, a data PDU (24 bytes and the data) in the
    /// other, which also carries the success status.
    pub fn read(payload_bytes: usize) -> Self {
        Shape { name: "read", request_bytes: 72, response_bytes: 24 + payload_bytes, payload_bytes }
    }
}

/// Exchanges messages for `duration`, with `depth` requests (1 to 1024) in flight.
///
/// # Errors
/// The system provides no sockets or threads.
pub fn measure(shape: Shape, depth: usize, duration: Duration) -> Result<FloorResult, PerfError> {
    exchange(shape, depth, duration, move |stream| respond(stream, shape)).map(|(result, ())| result)
}

/// The same with another responder, which answers on the given non-blocking socket until the other
/// side closes; also returns the responder's result.
///
/// # Errors
/// The system provides no sockets or threads; the responder's.
pub(crate) fn exchange<T: Send + 'static>(
    shape: Shape,
    depth: usize,
    duration: Duration,
    respond: impl FnOnce(TcpStream) -> std::io::Result<T> + Send + 'static,
) -> Result<(FloorResult, T), PerfError> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(PerfError::io("listen on loopback"))?;
    let address = listener.local_addr().map_err(PerfError::io("ask for a socket's address"))?;
    let stream = TcpStream::connect(address).map_err(PerfError::io("connect over loopback"))?;
    let (peer, _) = listener.accept().map_err(PerfError::io("accept over loopback"))?;
    for socket in [&stream, &peer] {
        socket.set_nodelay(true).map_err(PerfError::io("set TCP_NODELAY"))?;
        socket.set_nonblocking(true).map_err(PerfError::io("make a socket non-blocking"))?;
    }
    let cores = two_cores();
    let responder: JoinHandle<std::io::Result<T>> = std::thread::Builder::new()
        .name("floor".to_owned())
        .spawn(move || pinned(cores.map(|cores| cores.1), || respond(peer)))
        .map_err(PerfError::io("start a thread"))?;
    let result =
        pinned(cores.map(|cores| cores.0), || request(stream, shape, depth.clamp(1, 1024), duration));
    // A failed responder reports the cause; the other side saw only the end of the connection.
    let responded = responder.join().map_err(|_| PerfError::ThreadEnded)?;
    let responded = responded.map_err(PerfError::io("answer messages over loopback"))?;
    let (recorder, elapsed) = result.map_err(PerfError::io("exchange messages over loopback"))?;
    let what = format!(
        "loopback TCP, {} bytes out and {} back, QD{depth}",
        shape.request_bytes, shape.response_bytes
    );
    let latency = recorder.latency();
    Ok((FloorResult::new(what, elapsed.as_secs_f64(), shape.payload_bytes as u64, latency), responded))
}

/// Answers requests until the other side closes.
fn respond(mut stream: TcpStream, shape: Shape) -> std::io::Result<()> {
    let mut input = vec![0; BUFFER_BYTES];
    let output = vec![0; BUFFER_BYTES.max(shape.response_bytes)];
    let mut received = 0;
    let mut owed = 0;
    let mut spin = Spin::new();
    loop {
        let read = read_some(&mut stream, &mut input)?;
        spin.looked(read.is_some() || owed > 0);
        match read {
            Some(0) => return Ok(()),
            Some(count) => {
                received += count;
                owed += received / shape.request_bytes * shape.response_bytes;
                received %= shape.request_bytes;
            }
            None => {}
        }
        owed -= write_some(&mut stream, &output[..owed.min(output.len())])?;
    }
}

fn request(
    mut stream: TcpStream,
    shape: Shape,
    depth: usize,
    duration: Duration,
) -> std::io::Result<(Recorder, Duration)> {
    let mut recorder = Recorder::new();
    let mut input = vec![0; BUFFER_BYTES];
    let output = vec![0xa5; BUFFER_BYTES.max(shape.request_bytes)];
    let mut started_at = std::collections::VecDeque::with_capacity(depth);
    let (mut to_send, mut received) = (0, 0);
    let mut spin = Spin::new();
    let started = Instant::now();
    loop {
        let now = Instant::now();
        if now.duration_since(started) < duration {
            while started_at.len() < depth {
                started_at.push_back(now);
                to_send += shape.request_bytes;
            }
        } else if started_at.is_empty() {
            return Ok((recorder, started.elapsed()));
        }
        to_send -= write_some(&mut stream, &output[..to_send.min(output.len())])?;
        let read = read_some(&mut stream, &mut input)?;
        spin.looked(read.is_some());
        match read {
            Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Some(count) => {
                received += count;
                let now = Instant::now();
                for request in started_at.drain(..received / shape.response_bytes) {
                    recorder.record(now.duration_since(request));
                }
                received %= shape.response_bytes;
            }
            None => {}
        }
    }
}

/// Reads what is available; `None` if there is nothing, 0 bytes at the end of the stream.
pub(crate) fn read_some(stream: &mut TcpStream, into: &mut [u8]) -> std::io::Result<Option<usize>> {
    loop {
        match stream.read(into) {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes as much as the socket accepts.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    loop {
        match stream.write(bytes) {
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
