//! Reads the discovery log page.

use std::net::SocketAddr;

use zerocopy::{FromZeros, IntoBytes};

use super::controller::Controller;
use super::error::HostError;
use super::options::ConnectOptions;
use crate::nvmf::wire::discovery::{DiscoveryEntry, DiscoveryHeader};
use crate::nvmf::wire::fabrics::DISCOVERY_NQN;
use crate::nvmf::wire::log_page::LogPageId;

/// How often a changing page is read before giving up. nvme-cli uses the same number.
const ATTEMPTS_MAX: u32 = 10;
/// The most entries that are read.
const RECORDS_MAX: u64 = 16_384;

/// Connects to the discovery controller at `address`, reads its log page, and disconnects.
///
/// # Errors
/// When the connection or a command fails, or the page keeps changing while it is read.
pub fn discover(address: SocketAddr, options: ConnectOptions) -> Result<Vec<DiscoveryEntry>, HostError> {
    let mut controller = Controller::connect_admin(address, DISCOVERY_NQN, options)?;
    let (_, entries) = controller.discovery_log()?;
    controller.shutdown()?;
    Ok(entries)
}

impl Controller {
    /// Reads the discovery log page of a discovery controller: its generation and its entries,
    /// which are consistent with each other.
    ///
    /// # Errors
    /// When a command fails, or the page keeps changing while it is read.
    pub fn discovery_log(&mut self) -> Result<(u64, Vec<DiscoveryEntry>), HostError> {
        for _ in 0..ATTEMPTS_MAX {
            let header = self.discovery_header()?;
            let records = header.records.get();
            if records > RECORDS_MAX {
                return Err(HostError::DiscoverySize { records, limit: RECORDS_MAX });
            }
            let mut entries = vec![DiscoveryEntry::new_zeroed(); records as usize];
            let log_page = LogPageId::Discovery.into();
            let offset_bytes = size_of::<DiscoveryHeader>() as u64;
            self.log_page_at(log_page, 0, offset_bytes, entries.as_mut_bytes())?;
            let again = self.discovery_header()?;
            if again.generation == header.generation && again.records == header.records {
                return Ok((header.generation.get(), entries));
            }
        }
        Err(HostError::DiscoveryUnstable { attempts: ATTEMPTS_MAX })
    }

    fn discovery_header(&mut self) -> Result<DiscoveryHeader, HostError> {
        let mut header = DiscoveryHeader::new_zeroed();
        self.log_page_at(LogPageId::Discovery.into(), 0, 0, header.as_mut_bytes())?;
        Ok(header)
    }
}
