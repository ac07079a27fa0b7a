//! The fuzzing entry point (`crate::fuzzing`) for the blocks of an archive device.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a fuzz target fails by panic"
)]

use uuid::Uuid;

use super::format::{BLOCK, Content, Extent, blocks_for, decode_super, encode_super};
use crate::archive::store::Name;
use crate::log::checksum::with_crc;

const STORE: Uuid = Uuid::from_u128(7);
const AT_BLOCK: u64 = 22;
const DEVICE_BLOCKS: u64 = 1 << 12;

pub(crate) fn block_seeds() -> Vec<Vec<u8>> {
    let free = Extent::free(AT_BLOCK, 500, 9);
    let name = Name::new("v1/a/seg/00000003/7.seg.zst").expect("a name");
    let used = Extent { content: Some(Content { name, len_bytes: 70_000, crc: 0x1234 }), ..free.clone() };
    vec![
        encode_super(STORE, DEVICE_BLOCKS).to_vec(),
        free.encode(STORE).to_vec(),
        used.encode(STORE).to_vec(),
    ]
}

/// A block of an archive device, decoded as a superblock and as an extent header.
pub(crate) fn block(data: &[u8]) -> bool {
    let mut accepted = false;
    for bytes in [data.to_vec(), with_crc(data, BLOCK - 4)] {
        if let Some((store, len_blocks)) = decode_super(&bytes) {
            accepted = true;
            assert_eq!(decode_super(&encode_super(store, len_blocks)), Some((store, len_blocks)));
        }
        let Some(mut extent) = Extent::decode(&bytes, STORE, AT_BLOCK, DEVICE_BLOCKS) else { continue };
        accepted = true;
        let again = Extent::decode(&extent.encode(STORE), STORE, AT_BLOCK, DEVICE_BLOCKS);
        // Every header that this version writes has the flag that its copy agrees.
        extent.paired = true;
        assert_eq!(again.as_ref(), Some(&extent));
        assert!(extent.end() <= DEVICE_BLOCKS && extent.data_offset() < DEVICE_BLOCKS * BLOCK as u64);
        if let Some(content) = &extent.content {
            assert!(content.len_bytes <= extent.room_bytes());
            assert!(blocks_for(content.len_bytes).is_some_and(|blocks| blocks <= extent.len_blocks));
        }
        assert_eq!(Extent::decode(&extent.encode(STORE), STORE, AT_BLOCK + 1, DEVICE_BLOCKS), None);
    }
    accepted
}
