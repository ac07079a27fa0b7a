//! The admin commands of a controller, and asynchronous events.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::controller::Controller;
use super::error::{HostError, tolerate};
use super::queue::Wait;
use super::slots::{Completion, Payload};
use crate::nvmf::wire::command::{FLAGS_SGL, Features, GetLogPage, Identify, Sqe};
use crate::nvmf::wire::fabrics::{PropertyGet, PropertySet, property_size};
use crate::nvmf::wire::feature::{AsyncEvent, FeatureId, event_mask};
use crate::nvmf::wire::identify::IDENTIFY_BYTES;
use crate::nvmf::wire::opcode::{AdminOpcode, FabricsType};
use crate::nvmf::wire::property::Property;
use crate::nvmf::wire::status::Status;

/// Bytes of a log page that are read at a time.
const LOG_CHUNK_BYTES: u32 = 4096;
/// The most Asynchronous Event Requests outstanding.
const ASYNC_EVENTS_MAX: u8 = 16;
/// The most events kept until [`Controller::next_event`] takes them. Beyond that the oldest are
/// dropped.
const EVENTS_KEPT_MAX: usize = 64;
/// Tag of Asynchronous Event Requests on the admin queue.
const ASYNC_EVENT_TAG: u64 = u64::MAX - 1;

impl Controller {
    /// An Identify command whose answer is read as `T` (4096 bytes).
    ///
    /// # Errors
    /// When the command fails.
    pub fn identify_structure<T>(&mut self, command: Identify) -> Result<T, HostError>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        let mut data = T::new_zeroed();
        let payload = Payload::Read(IDENTIFY_BYTES as u32);
        self.execute("Identify", command.into(), payload, data.as_mut_bytes())?;
        Ok(data)
    }

    /// The first `length_bytes` (a multiple of 4) of a log page, read in chunks of 4096 bytes.
    ///
    /// # Errors
    /// When a command fails.
    pub fn log_page(&mut self, log_page: u8, nsid: u32, length_bytes: u32) -> Result<Vec<u8>, HostError> {
        let mut data = vec![0; length_bytes as usize];
        self.log_page_at(log_page, nsid, 0, &mut data)?;
        Ok(data)
    }

    /// Reads a log page from `offset_bytes` on into `data` (a multiple of 4 bytes).
    ///
    /// # Errors
    /// When a command fails.
    pub fn log_page_at(
        &mut self,
        log_page: u8,
        nsid: u32,
        offset_bytes: u64,
        data: &mut [u8],
    ) -> Result<(), HostError> {
        let mut offset_bytes = offset_bytes;
        for chunk in data.chunks_mut(LOG_CHUNK_BYTES as usize) {
            let length_bytes = chunk.len() as u32;
            let command = GetLogPage::new(log_page, nsid, offset_bytes, length_bytes);
            self.execute("Get Log Page", command.into(), Payload::Read(length_bytes), chunk)?;
            offset_bytes += u64::from(length_bytes);
        }
        Ok(())
    }

    /// Set Features. Returns DW0.
    ///
    /// # Errors
    /// When the command fails.
    pub fn set_feature(&mut self, feature: u8, nsid: u32, value: u32, data: &[u8]) -> Result<u32, HostError> {
        let command = Features {
            opcode: AdminOpcode::SetFeatures.into(),
            flags: FLAGS_SGL,
            nsid: U32::new(nsid),
            feature,
            value: U32::new(value),
            ..Features::default()
        };
        let payload = if data.is_empty() { Payload::None } else { Payload::Write(data) };
        Ok(self.execute("Set Features", command.into(), payload, &mut [])? as u32)
    }

    /// Get Features of the current value. Returns DW0 and fills `data`.
    ///
    /// # Errors
    /// When the command fails.
    pub fn get_feature(&mut self, feature: u8, nsid: u32, data: &mut [u8]) -> Result<u32, HostError> {
        let command = Features {
            opcode: AdminOpcode::GetFeatures.into(),
            flags: FLAGS_SGL,
            nsid: U32::new(nsid),
            feature,
            ..Features::default()
        };
        let payload = match data.len() {
            0 => Payload::None,
            bytes => Payload::Read(bytes as u32),
        };
        Ok(self.execute("Get Features", command.into(), payload, data)? as u32)
    }

    /// Keep Alive.
    ///
    /// # Errors
    /// When the command fails.
    pub fn keep_alive(&mut self) -> Result<(), HostError> {
        let command = Sqe::admin(AdminOpcode::KeepAlive);
        self.execute("Keep Alive", command, Payload::None, &mut [])?;
        self.last_keep_alive = Instant::now();
        Ok(())
    }

    /// Sends Keep Alive if half of KATO has passed since the last one. Call it often.
    ///
    /// # Errors
    /// When the command fails.
    pub fn keep_alive_if_due(&mut self) -> Result<(), HostError> {
        let half = Duration::from_millis(u64::from(self.options.keep_alive_timeout_ms) / 2);
        if half.is_zero() || self.last_keep_alive.elapsed() < half {
            return Ok(());
        }
        self.keep_alive()
    }

    /// Any admin command. Returns its status and result, whatever they are. Data it reads goes to
    /// `read_into`.
    ///
    /// # Errors
    /// When the queue is full or lost.
    pub fn admin(
        &mut self,
        command: Sqe,
        payload: Payload<'_>,
        read_into: &mut [u8],
    ) -> Result<(Status, u64), HostError> {
        let events = &mut self.events;
        let to_arm = &mut self.events_to_arm;
        let answer = self.admin.execute_with(command, payload, read_into, |completion| {
            take_event(events, to_arm, completion);
        })?;
        self.rearm_events()?;
        Ok(answer)
    }

    /// Sends one Asynchronous Event Request beyond those kept outstanding, for tests of the limit.
    ///
    /// # Errors
    /// When the queue is full or lost.
    pub fn submit_event_request(&mut self) -> Result<(), HostError> {
        let command = Sqe::admin(AdminOpcode::AsyncEventRequest);
        self.admin.submit(command, Payload::None, ASYNC_EVENT_TAG)
    }

    /// The next asynchronous event. Waits up to `wait` for it (zero: not at all).
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn next_event(&mut self, wait: Duration) -> Result<Option<AsyncEvent>, HostError> {
        if self.events.is_empty() {
            let wait = if wait.is_zero() { Wait::Now } else { Wait::Block(wait) };
            let events = &mut self.events;
            let to_arm = &mut self.events_to_arm;
            self.admin.poll(wait, |completion| take_event(events, to_arm, completion))?;
            self.rearm_events()?;
        }
        Ok(self.events.pop_front())
    }

    /// Property Get.
    ///
    /// # Errors
    /// When the command fails.
    pub fn property(&mut self, property: Property) -> Result<u64, HostError> {
        let command = PropertyGet {
            opcode: AdminOpcode::Fabrics.into(),
            flags: FLAGS_SGL,
            fabrics_type: FabricsType::PropertyGet.into(),
            size: property_size(property),
            offset: U32::new(property.into()),
            ..PropertyGet::default()
        };
        self.execute("Property Get", command.into(), Payload::None, &mut [])
    }

    /// Property Set.
    ///
    /// # Errors
    /// When the command fails.
    pub fn set_property(&mut self, property: Property, value: u64) -> Result<(), HostError> {
        let command = PropertySet::new(property, value);
        self.execute("Property Set", command.into(), Payload::None, &mut [])?;
        Ok(())
    }

    pub(super) fn execute(
        &mut self,
        operation: &'static str,
        command: Sqe,
        payload: Payload<'_>,
        read_into: &mut [u8],
    ) -> Result<u64, HostError> {
        let (status, result) = self.admin(command, payload, read_into)?;
        if status.is_success() { Ok(result) } else { Err(HostError::Status { operation, status, result }) }
    }

    /// Enables the events that the controller supports, and sends the first requests for them.
    ///
    /// # Errors
    /// When a command fails.
    pub fn arm_events(&mut self) -> Result<(), HostError> {
        let wanted = event_mask::NAMESPACE_ATTRIBUTE
            | event_mask::FIRMWARE_ACTIVATION
            | event_mask::ANA_CHANGE
            | event_mask::DISCOVERY_CHANGE;
        let mask = self.identify.async_events.get() & wanted;
        if mask != 0 {
            tolerate(self.set_feature(FeatureId::AsyncEventConfiguration.into(), 0, mask, &[]))?;
        }
        let limit = self.identify.async_event_requests_less_one.saturating_add(1);
        self.events_to_arm = self.options.async_event_requests.min(limit).min(ASYNC_EVENTS_MAX);
        self.rearm_events()
    }

    fn rearm_events(&mut self) -> Result<(), HostError> {
        while self.events_to_arm > 0 {
            self.submit_event_request()?;
            self.events_to_arm -= 1;
        }
        self.admin.send()
    }
}

/// Keeps an event. If the request failed, drops it, as the Linux host does.
fn take_event(events: &mut VecDeque<AsyncEvent>, to_arm: &mut u8, completion: Completion<'_>) {
    if completion.tag != ASYNC_EVENT_TAG || !completion.status.is_success() {
        return;
    }
    if events.len() == EVENTS_KEPT_MAX {
        events.pop_front();
    }
    events.push_back(AsyncEvent::from_dword(completion.result as u32));
    *to_arm = to_arm.saturating_add(1);
}
