//! The lists of Identify: namespaces, controllers, command sets, and namespace descriptors.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::IDENTIFY_BYTES;
use crate::nvmf::wire::macros::{assert_layout, wire_enum, zeroed_default};

/// Active namespace list (CNS 02h): ascending NSIDs, ended by 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NamespaceList {
    /// 0..4096
    pub nsids: [U32; 1024],
}
assert_layout!(NamespaceList, 4096);

impl NamespaceList {
    /// The NSIDs, up to the first 0.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.nsids.iter().map(|nsid| nsid.get()).take_while(|&nsid| nsid != 0)
    }
}

/// Controller list (CNS 12h and 13h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ControllerList {
    /// 0..2: entries used.
    pub count: U16,
    /// 2..4096: ascending identifiers.
    pub ids: [U16; 2047],
}
assert_layout!(ControllerList, 4096, ids @ 2);

impl ControllerList {
    /// The identifiers, at most 2047.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ids.iter().take(usize::from(self.count.get())).map(|id| id.get())
    }
}

/// I/O command set vectors (CNS 1Ch): combinations that CC and the profile feature can select.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandSetVectors {
    /// 0..4096: bit 0 of a vector is NVM, 1 key value, 2 zoned namespaces.
    pub vectors: [U64; 512],
}
assert_layout!(CommandSetVectors, 4096);

impl CommandSetVectors {
    /// The bit of the NVM command set.
    pub const NVM: u64 = 1 << 0;
}

zeroed_default!(NamespaceList, ControllerList, CommandSetVectors, NamespaceDescriptorHeader);

wire_enum! {
    /// NIDT, namespace identifier types.
    pub enum DescriptorType: u8 {
        /// EUI64, 8 bytes.
        Eui64 = 1,
        /// NGUID, 16 bytes.
        Nguid = 2,
        /// UUID, 16 bytes.
        Uuid = 3,
        /// Command set identifier, 1 byte.
        CommandSet = 4,
    }
}

impl DescriptorType {
    /// Bytes of an identifier of this type.
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Eui64 => 8,
            Self::Nguid | Self::Uuid => 16,
            Self::CommandSet => 1,
        }
    }
}

/// Header of a namespace identification descriptor. NIDL bytes follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NamespaceDescriptorHeader {
    /// 0: NIDT. 0 ends the list.
    pub descriptor_type: u8,
    /// 1: NIDL in bytes.
    pub length_bytes: u8,
    /// 2..4
    pub reserved: [u8; 2],
}
assert_layout!(NamespaceDescriptorHeader, 4);

/// A namespace descriptor list that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceDescriptorsError {
    /// A known type with a length other than its own.
    #[error("namespace descriptor type {descriptor_type} at byte {offset} has {found} bytes")]
    Length {
        /// NIDT.
        descriptor_type: u8,
        /// Offset of the descriptor in the list.
        offset: usize,
        /// NIDL as received.
        found: u8,
    },
    /// A descriptor exceeds the end of the list.
    #[error("the namespace descriptor at byte {offset} runs over the end of the list")]
    Overrun {
        /// Offset of the descriptor in the list.
        offset: usize,
    },
}

/// The identifiers of a namespace in its descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceIds {
    /// EUI64.
    pub eui64: Option<[u8; 8]>,
    /// NGUID.
    pub nguid: Option<[u8; 16]>,
    /// UUID.
    pub uuid: Option<[u8; 16]>,
    /// Command set identifier. 0 is NVM.
    pub command_set: Option<u8>,
}

/// Namespace identification descriptor list (CNS 03h), 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NamespaceDescriptors {
    /// 0..4096: descriptors one after another.
    pub bytes: [u8; IDENTIFY_BYTES],
}
assert_layout!(NamespaceDescriptors, 4096);

impl From<NamespaceIds> for NamespaceDescriptors {
    fn from(ids: NamespaceIds) -> Self {
        let mut list = Self { bytes: [0; IDENTIFY_BYTES] };
        // At most 4 x 4 + 41 bytes in total, so the list's 4096 always suffice.
        let mut free = list.bytes.iter_mut();
        let mut append = |descriptor_type: DescriptorType, id: &[u8]| {
            let header = NamespaceDescriptorHeader {
                descriptor_type: descriptor_type.into(),
                length_bytes: descriptor_type.bytes(),
                reserved: [0; 2],
            };
            // This order of the iterators skips no free byte.
            for (&byte, free) in header.as_bytes().iter().chain(id).zip(free.by_ref()) {
                *free = byte;
            }
        };
        if let Some(id) = ids.eui64 {
            append(DescriptorType::Eui64, &id);
        }
        if let Some(id) = ids.nguid {
            append(DescriptorType::Nguid, &id);
        }
        if let Some(id) = ids.uuid {
            append(DescriptorType::Uuid, &id);
        }
        if let Some(id) = ids.command_set {
            append(DescriptorType::CommandSet, &[id]);
        }
        list
    }
}

impl NamespaceDescriptors {
    /// Reads the list. Unknown types are skipped.
    ///
    /// # Errors
    /// When a descriptor's length is wrong or it exceeds the end.
    pub fn ids(&self) -> Result<NamespaceIds, NamespaceDescriptorsError> {
        let mut ids = NamespaceIds::default();
        let mut left = &self.bytes[..];
        while let Ok((header, rest)) = NamespaceDescriptorHeader::ref_from_prefix(left) {
            if header.descriptor_type == 0 {
                break;
            }
            let offset = self.bytes.len().saturating_sub(left.len());
            let (id, behind) = rest
                .split_at_checked(usize::from(header.length_bytes))
                .ok_or(NamespaceDescriptorsError::Overrun { offset })?;
            let wrong = NamespaceDescriptorsError::Length {
                descriptor_type: header.descriptor_type,
                offset,
                found: header.length_bytes,
            };
            match DescriptorType::try_from(header.descriptor_type) {
                Ok(DescriptorType::Eui64) => {
                    ids.eui64 = Some(id.try_into().map_err(|_| wrong)?);
                }
                Ok(DescriptorType::Nguid) => {
                    ids.nguid = Some(id.try_into().map_err(|_| wrong)?);
                }
                Ok(DescriptorType::Uuid) => ids.uuid = Some(id.try_into().map_err(|_| wrong)?),
                Ok(DescriptorType::CommandSet) => {
                    let one: [u8; 1] = id.try_into().map_err(|_| wrong)?;
                    ids.command_set = Some(one[0]);
                }
                Err(_) => {}
            }
            left = behind;
        }
        Ok(ids)
    }
}
