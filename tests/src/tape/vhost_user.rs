//! The other end of QEMU's `vhost-user-scsi` device: its messages, the guest's rings, and the SCSI
//! requests in them.
//!
//! One thread serves one host at a time. The guest's memory is a file, which system calls read and
//! write: this is slower than a mapping, but no pointer can be wrong. Queue 0 is for task
//! management, queue 1 for events, of which there are none, and queue 2 for commands (virtio 1.2,
//! section 5.6).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::stream::{SENSE_BYTES, StreamUnit};

const GET_FEATURES: u32 = 1;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;

/// Version 1 of the protocol; a reply.
const REPLY_FLAGS: u32 = 1 | 4;
/// Virtio version 1, protocol features (QEMU counts no memory slots without them), and descriptors
/// in tables.
const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 28;
/// None is needed.
const PROTOCOL_FEATURES: u64 = 0;
/// The largest message: a table of eight regions.
const MESSAGE_BYTES_MAX: usize = 8 + 8 * 32;
/// A message about a ring's event carries no event.
const NO_EVENT: u64 = 0x100;

const DESCRIPTOR_NEXT: u16 = 1;
const DESCRIPTOR_WRITE: u16 = 2;
const DESCRIPTOR_TABLE: u16 = 4;

const TASK_QUEUE: u32 = 0;
const COMMAND_QUEUE: u32 = 2;

const REQUEST_BYTES: usize = 51;
const RESPONSE_BYTES: usize = 108;
const BAD_TARGET: u8 = 3;
const CHECK_CONDITION: u8 = 2;

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Serves one QEMU after another until the other end of `stopped` is closed.
pub(super) fn serve(
    listener: &UnixListener,
    stopped: &UnixStream,
    units: &mut [StreamUnit],
) -> io::Result<()> {
    loop {
        if wait(&[stopped.as_fd(), listener.as_fd()])?[0] {
            return Ok(());
        }
        let (stream, _) = listener.accept()?;
        for unit in &mut *units {
            unit.reset();
        }
        let mut host = Host { stream, memory: Memory::default(), rings: BTreeMap::new() };
        if host.serve(stopped, units)? {
            return Ok(());
        }
    }
}

/// Waits until at least one source is readable.
fn wait(sources: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> =
        sources.iter().map(|source| PollFd::from_borrowed_fd(*source, PollFlags::IN)).collect();
    loop {
        match poll(&mut polled, None) {
            Ok(_) => return Ok(polled.iter().map(|source| !source.revents().is_empty()).collect()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The guest's memory: ranges of files.
#[derive(Default)]
struct Memory {
    regions: Vec<Region>,
}

struct Region {
    guest_address: u64,
    host_address: u64,
    len_bytes: u64,
    file_offset: u64,
    file: File,
}

impl Memory {
    /// The position of a range in a file, for an address relative to `base`.
    fn find(&self, address: u64, len: usize, base: fn(&Region) -> u64) -> io::Result<(&File, u64)> {
        for region in &self.regions {
            let Some(offset) = address.checked_sub(base(region)) else { continue };
            if offset.checked_add(len as u64).is_some_and(|end| end <= region.len_bytes) {
                return Ok((&region.file, region.file_offset + offset));
            }
        }
        Err(invalid("an address is outside of the guest's memory"))
    }

    /// Reads at a guest address.
    fn read(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (file, offset) = self.find(address, buffer.len(), |region| region.guest_address)?;
        file.read_exact_at(buffer, offset)
    }

    /// Writes at a guest address.
    fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, offset) = self.find(address, bytes.len(), |region| region.guest_address)?;
        file.write_all_at(bytes, offset)
    }

    /// Reads at an address of QEMU's own process: rings are given by those.
    fn ring_number(&self, address: u64) -> io::Result<u16> {
        let mut bytes = [0; 2];
        let (file, offset) = self.find(address, bytes.len(), |region| region.host_address)?;
        file.read_exact_at(&mut bytes, offset)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn write_ring(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, offset) = self.find(address, bytes.len(), |region| region.host_address)?;
        file.write_all_at(bytes, offset)
    }
}

/// One of the guest's rings.
#[derive(Default)]
struct Ring {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    /// The next entry of `available` to process.
    next: u16,
    kick: Option<File>,
    call: Option<File>,
}

/// A range of the guest's memory.
type Stretch = (u64, u32);

/// One request that the guest put into a ring.
#[derive(Default)]
struct Chain {
    readable: Vec<Stretch>,
    writable: Vec<Stretch>,
}

impl Chain {
    /// Follows a chain of descriptors from `head`.
    fn read(memory: &Memory, ring: &Ring, head: u16) -> io::Result<Self> {
        // Like all addresses of a ring this one is QEMU's; the tables that it refers to have guest
        // addresses.
        let table = memory.regions.iter().find_map(|region| {
            let offset = ring.descriptors.checked_sub(region.host_address)?;
            (offset < region.len_bytes).then_some(region.guest_address + offset)
        });
        let table = table.ok_or_else(|| invalid("a ring is outside of the guest's memory"))?;
        let mut chain = Chain::default();
        chain.follow(memory, table, u64::from(ring.size), head, true)?;
        Ok(chain)
    }

    fn follow(&mut self, memory: &Memory, table: u64, size: u64, head: u16, nested: bool) -> io::Result<()> {
        let mut index = head;
        for _ in 0..size {
            let mut bytes = [0; 16];
            memory.read(table + 16 * u64::from(index), &mut bytes)?;
            let [address, rest] = [0, 8].map(|at| le64(&bytes, at));
            let (len, flags, next) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16);
            if flags & DESCRIPTOR_TABLE != 0 && nested {
                self.follow(memory, address, u64::from(len / 16), 0, false)?;
            } else if flags & DESCRIPTOR_WRITE != 0 {
                self.writable.push((address, len));
            } else {
                self.readable.push((address, len));
            }
            if flags & DESCRIPTOR_NEXT == 0 {
                return Ok(());
            }
            index = next;
        }
        Err(invalid("a chain of descriptors has no end"))
    }

    fn gather(&self, memory: &Memory) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for &(address, len) in &self.readable {
            let begin = bytes.len();
            bytes.resize(begin + len as usize, 0);
            memory.read(address, &mut bytes[begin..])?;
        }
        Ok(bytes)
    }

    fn room_bytes(&self) -> usize {
        self.writable.iter().map(|&(_, len)| len as usize).sum()
    }

    fn scatter(&self, memory: &Memory, mut bytes: &[u8]) -> io::Result<()> {
        for &(address, len) in &self.writable {
            let (now, rest) = bytes.split_at(bytes.len().min(len as usize));
            memory.write(address, now)?;
            bytes = rest;
        }
        Ok(())
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at + 4)) << 32 | u64::from(le32(bytes, at))
}

/// A connected QEMU.
struct Host {
    stream: UnixStream,
    memory: Memory,
    rings: BTreeMap<u32, Ring>,
}

impl Host {
    /// Serves it until it disconnects; returns whether everything has to stop.
    fn serve(&mut self, stopped: &UnixStream, units: &mut [StreamUnit]) -> io::Result<bool> {
        loop {
            let mut sources = vec![stopped.as_fd(), self.stream.as_fd()];
            let mut kicked: Vec<u32> = Vec::new();
            for (&index, ring) in &self.rings {
                if let Some(kick) = &ring.kick {
                    sources.push(kick.as_fd());
                    kicked.push(index);
                }
            }
            let ready = wait(&sources)?;
            if ready[0] {
                return Ok(true);
            }
            if ready[1] {
                // The message may have changed the rings.
                if !self.take_message()? {
                    return Ok(false);
                }
                continue;
            }
            for (index, _) in kicked.into_iter().zip(&ready[2..]).filter(|(_, ready)| **ready) {
                let Some(ring) = self.rings.get_mut(&index) else { continue };
                if let Some(mut kick) = ring.kick.as_ref() {
                    kick.read_exact(&mut [0; 8])?;
                }
                take_requests(&self.memory, index, ring, units)?;
            }
        }
    }

    /// Handles a message; false at the end of the connection.
    fn take_message(&mut self) -> io::Result<bool> {
        let mut head = [0; 12];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.stream,
            &mut [IoSliceMut::new(&mut head)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
        );
        match received {
            Ok(message) if message.bytes == head.len() => {}
            // QEMU was killed, possibly in the middle of a message.
            Ok(_) | Err(rustix::io::Errno::CONNRESET) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        let mut files: Vec<File> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                files.extend(passed.map(File::from));
            }
        }
        let mut body = vec![0; le32(&head, 8) as usize];
        if body.len() > MESSAGE_BYTES_MAX {
            return Err(invalid("a message is too long"));
        }
        self.stream.read_exact(&mut body)?;
        // Padded with zeroes, so that the fields of a short or missing body can be read.
        body.resize(MESSAGE_BYTES_MAX, 0);
        let request = le32(&head, 0);
        match request {
            GET_FEATURES => self.reply(request, &FEATURES.to_le_bytes())?,
            GET_PROTOCOL_FEATURES => self.reply(request, &PROTOCOL_FEATURES.to_le_bytes())?,
            SET_MEM_TABLE => self.memory = memory_table(&body, files)?,
            SET_VRING_NUM => self.ring(&body).size = le32(&body, 4) as u16,
            SET_VRING_BASE => self.ring(&body).next = le32(&body, 4) as u16,
            SET_VRING_ADDR => {
                let ring = self.ring(&body);
                [ring.descriptors, ring.used, ring.available] = [8, 16, 24].map(|at| le64(&body, at));
            }
            GET_VRING_BASE => {
                let ring = self.ring(&body);
                ring.kick = None;
                let next = u32::from(ring.next);
                self.reply(request, &[le32(&body, 0).to_le_bytes(), next.to_le_bytes()].concat())?;
            }
            SET_VRING_KICK | SET_VRING_CALL => {
                let word = le64(&body, 0);
                let file = if word & NO_EVENT == 0 { files.pop() } else { None };
                let ring = self.rings.entry((word & 0xff) as u32).or_default();
                *(if request == SET_VRING_KICK { &mut ring.kick } else { &mut ring.call }) = file;
            }
            _ => {}
        }
        Ok(true)
    }

    fn ring(&mut self, body: &[u8]) -> &mut Ring {
        self.rings.entry(le32(body, 0)).or_default()
    }

    fn reply(&mut self, request: u32, body: &[u8]) -> io::Result<()> {
        let head = [request, REPLY_FLAGS, body.len() as u32].map(u32::to_le_bytes);
        self.stream.write_all(&[head.as_flattened(), body].concat())
    }
}

fn memory_table(body: &[u8], files: Vec<File>) -> io::Result<Memory> {
    if le32(body, 0) as usize != files.len() {
        return Err(invalid("a region of memory has no file"));
    }
    let regions = files.into_iter().enumerate().map(|(number, file)| {
        let [guest_address, len_bytes, host_address, file_offset] =
            [8, 16, 24, 32].map(|at| le64(body, 32 * number + at));
        Region { guest_address, host_address, len_bytes, file_offset, file }
    });
    Ok(Memory { regions: regions.collect() })
}

/// Executes all requests in a ring.
fn take_requests(memory: &Memory, index: u32, ring: &mut Ring, units: &mut [StreamUnit]) -> io::Result<()> {
    if ring.size == 0 {
        return Err(invalid("a ring without entries"));
    }
    while memory.ring_number(ring.available + 2)? != ring.next {
        let slot = |number: u16, bytes: u64| 4 + bytes * u64::from(number % ring.size);
        let head = memory.ring_number(ring.available + slot(ring.next, 2))?;
        let chain = Chain::read(memory, ring, head)?;
        let answer = match index {
            COMMAND_QUEUE => execute(&chain.gather(memory)?, chain.room_bytes(), units)?,
            // A task is always done when a request to manage it arrives: there is one thread.
            TASK_QUEUE => vec![0; chain.room_bytes()],
            // A buffer for events; it stays unused.
            _ => {
                ring.next = ring.next.wrapping_add(1);
                continue;
            }
        };
        chain.scatter(memory, &answer)?;
        let used = memory.ring_number(ring.used + 2)?;
        let entry = [u32::from(head), answer.len() as u32].map(u32::to_le_bytes);
        memory.write_ring(ring.used + slot(used, 8), entry.as_flattened())?;
        memory.write_ring(ring.used + 2, &used.wrapping_add(1).to_le_bytes())?;
        ring.next = ring.next.wrapping_add(1);
        if let Some(mut call) = ring.call.as_ref() {
            call.write_all(&1_u64.to_ne_bytes())?;
        }
    }
    Ok(())
}

/// Executes a request; the answer is the response and the data for the host.
fn execute(request: &[u8], room_bytes: usize, units: &mut [StreamUnit]) -> io::Result<Vec<u8>> {
    let (Some((head, data)), Some(room_bytes)) =
        (request.split_at_checked(REQUEST_BYTES), room_bytes.checked_sub(RESPONSE_BYTES))
    else {
        return Err(invalid("a request is too short"));
    };
    let mut response = vec![0; RESPONSE_BYTES];
    let (target, unit) = (head[1], usize::from(head[2] & 0x3f) << 8 | usize::from(head[3]));
    let count = units.len();
    let Some(unit) = units.get_mut(unit).filter(|_| target == 0) else {
        response[11] = BAD_TARGET;
        return Ok(response);
    };
    let answer = unit.execute(&head[19..], data, room_bytes, count);
    let residual = (room_bytes - answer.data.len()) as u32;
    response[4..8].copy_from_slice(&residual.to_le_bytes());
    if let Some(sense) = answer.sense {
        response[..4].copy_from_slice(&(SENSE_BYTES as u32).to_le_bytes());
        response[10] = CHECK_CONDITION;
        response[12..12 + SENSE_BYTES].copy_from_slice(&sense);
    }
    response.extend(answer.data);
    Ok(response)
}
