//! The discovery log page, 70h (Base section 5.16.1.23): every subsystem at every listener's
//! address, as one host sees them.

use std::net::{IpAddr, SocketAddr};

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U64};

use super::context::Context;
use super::subsystem::Subsystem;
use crate::nvmf::wire::discovery::{
    AddressFamily, DiscoveryEntry, DiscoveryHeader, SubsystemType, TransportType, entry_flag,
    transport_requirement,
};
use crate::nvmf::wire::fabrics::CONTROLLER_ID_DYNAMIC;
use crate::nvmf::wire::text;

const ENTRY_BYTES: usize = size_of::<DiscoveryEntry>();
const _: () = assert!(size_of::<DiscoveryHeader>() == ENTRY_BYTES);

/// `length` bytes of the page from `offset` on, for a host that reached us at `local`. Builds only
/// the entries inside that range, so a long page that is read in pieces costs no more than its
/// length.
pub(super) fn read(context: &Context, local: SocketAddr, offset: u64, length: usize) -> Vec<u8> {
    let addresses = addresses(&context.listener_addresses(), local);
    let mut subsystems = vec![std::rc::Rc::clone(&context.subsystems.discovery)];
    subsystems.extend(context.subsystems.all());
    let records = subsystems.len() * addresses.len();
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        let at = offset + filled as u64;
        let (index, skip) = ((at / ENTRY_BYTES as u64) as usize, (at % ENTRY_BYTES as u64) as usize);
        let count = (ENTRY_BYTES - skip).min(length - filled);
        let room = &mut bytes[filled..filled + count];
        if index == 0 {
            let header = DiscoveryHeader {
                generation: U64::new(context.subsystems.generation()),
                records: U64::new(records as u64),
                ..DiscoveryHeader::default()
            };
            room.copy_from_slice(&header.as_bytes()[skip..skip + count]);
        } else if index <= records {
            let subsystem = &subsystems[(index - 1) / addresses.len()];
            let port = (index - 1) % addresses.len();
            let entry = entry(context, subsystem, port as u16, addresses[port]);
            room.copy_from_slice(&entry.as_bytes()[skip..skip + count]);
        } else {
            break;
        }
        filled += count;
    }
    bytes
}

fn entry(context: &Context, subsystem: &Subsystem, port: u16, address: SocketAddr) -> DiscoveryEntry {
    let is_discovery = subsystem.is_discovery();
    let mut entry = DiscoveryEntry {
        transport_type: TransportType::Tcp.into(),
        address_family: if address.is_ipv4() { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 }.into(),
        subsystem_type: if is_discovery { SubsystemType::CurrentDiscovery } else { SubsystemType::Nvm }
            .into(),
        requirements: transport_requirement::SECURE_UNSPECIFIED | transport_requirement::FLOW_CONTROL_DISABLE,
        port_id: U16::new(port),
        controller_id: U16::new(CONTROLLER_ID_DYNAMIC),
        admin_queue_entries_max: U16::new(context.config.queue_entries_max),
        flags: U16::new(if is_discovery {
            entry_flag::PERSISTENT_CONNECTION | entry_flag::DUPLICATE_INFORMATION
        } else {
            0
        }),
        ..DiscoveryEntry::default()
    };
    // All three fit into their fields: a port, an address, and an NQN whose length the volume's
    // name bounds.
    let _ = text::set_space_padded(&mut entry.service_id, &address.port().to_string());
    let _ = text::set_space_padded(&mut entry.transport_address, &address.ip().to_string());
    let _ = text::set_nul_terminated(&mut entry.subsystem_nqn, &subsystem.nqn);
    entry
}

/// The listeners' addresses as the host at `local` can use them: "any address" becomes the address
/// that the host has used.
fn addresses(listeners: &[SocketAddr], local: SocketAddr) -> Vec<SocketAddr> {
    let mut addresses = Vec::with_capacity(listeners.len());
    let here = local.ip().to_canonical();
    for listener in listeners {
        let address = match listener.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() && here.is_ipv4() => SocketAddr::new(here, listener.port()),
            IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(here, listener.port()),
            ip => SocketAddr::new(ip.to_canonical(), listener.port()),
        };
        if !address.ip().is_unspecified() && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn any_address_becomes_the_one_in_use() {
        let listeners = [address("0.0.0.0:4420"), address("[::]:4420"), address("10.0.0.9:8009")];
        assert_eq!(
            addresses(&listeners, address("10.0.0.1:4420")),
            [address("10.0.0.1:4420"), address("10.0.0.9:8009")]
        );
        assert_eq!(
            addresses(&listeners, address("[::ffff:10.0.0.1]:4420")),
            [address("10.0.0.1:4420"), address("10.0.0.9:8009")]
        );
        assert_eq!(
            addresses(&listeners, address("[fd00::1]:4420")),
            [address("[fd00::1]:4420"), address("10.0.0.9:8009")]
        );
    }
}
