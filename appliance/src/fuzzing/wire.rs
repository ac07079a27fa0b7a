//! What hosts and controllers send: PDUs, commands, and the data of Connect and Identify.

use zerocopy::{FromBytes, IntoBytes};

use crate::nvmf::wire::admin_command::Features;
use crate::nvmf::wire::command::{Abort, Cqe, GetLogPage, Identify, Rw, Sqe};
use crate::nvmf::wire::discovery::DiscoveryEntry;
use crate::nvmf::wire::fabrics::{Connect, ConnectData};
use crate::nvmf::wire::identify::{
    ControllerList, IdentifyController, IdentifyNamespace, NamespaceDescriptors, NamespaceIds, NamespaceList,
};
use crate::nvmf::wire::opcode::{AdminOpcode, FabricsType, IoOpcode};
use crate::nvmf::wire::pdu::{CommonHeader, Digests, PduType};
use crate::nvmf::wire::pdu_check::{
    PduLimits, Receiver, append_header, check_data, check_header, check_header_digest, common_header, digest,
};
use crate::nvmf::wire::sgl::SglKind;
use crate::nvmf::wire::status::Status;

fn limits(choice: u8) -> PduLimits {
    PduLimits {
        receiver: if choice & 1 == 0 { Receiver::Controller } else { Receiver::Host },
        digests: Digests { header: choice & 2 != 0, data: choice & 4 != 0 },
        data_alignment_bytes: 4 << (choice >> 3 & 3),
        in_capsule_bytes_max: 8192,
        data_bytes_max: 1 << 17,
    }
}

/// A byte that chooses the limits, and a PDU.
pub(super) fn pdu_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for choice in 0..8 {
        let limits = limits(choice);
        let plain =
            [PduType::CapsuleCmd, PduType::CapsuleResp, PduType::R2t, PduType::IcReq, PduType::IcResp];
        let plain = plain.map(|pdu_type| CommonHeader::without_data(pdu_type, limits.digests.header));
        let with_data = [PduType::CapsuleCmd, PduType::H2cData, PduType::C2hData].map(|pdu_type| {
            CommonHeader::with_data(pdu_type, limits.digests, limits.data_alignment_bytes, 512)
        });
        let headers = plain.into_iter().chain(with_data);
        let is_for_receiver = |header: &CommonHeader| {
            let pdu_type = PduType::try_from(header.pdu_type).expect("a type");
            pdu_type.is_from_host() == (limits.receiver == Receiver::Controller)
        };
        for header in headers.filter(is_for_receiver) {
            let mut bytes = vec![choice];
            let mut head = header.as_bytes().to_vec();
            head.resize(usize::from(header.hlen), 0);
            bytes.extend_from_slice(&head);
            if limits.digests.header {
                bytes.extend_from_slice(&digest(&head).to_le_bytes());
            }
            bytes.resize(1 + header.plen.get() as usize, 0x5A);
            seeds.push(bytes);
        }
    }
    seeds
}

pub(super) fn pdu(data: &[u8]) -> bool {
    let Some((&choice, bytes)) = data.split_first() else { return false };
    let limits = limits(choice);
    let Some(header) = common_header(bytes) else { return false };
    match check_header(header, &limits) {
        Ok(layout) => {
            assert_eq!((layout.pdu_bytes, layout.header_bytes), (header.plen.get(), header.hlen));
            assert_eq!(Ok(layout.pdu_type), PduType::try_from(header.pdu_type));
            let tail = if layout.data_digest { 4 } else { 0 };
            assert!(layout.head_bytes() <= layout.data_offset as usize);
            assert_eq!(layout.data_offset + layout.data_bytes + tail, layout.pdu_bytes);
            assert!(layout.data_bytes <= limits.data_bytes_max.max(limits.in_capsule_bytes_max));
            assert_eq!(check_data(&layout, layout.data_bytes), Ok(()));
            assert!(check_data(&layout, layout.data_bytes ^ 1).is_err());
            if let Some((head, rest)) = bytes.split_at_checked(usize::from(layout.header_bytes)) {
                let checked = check_header_digest(bytes, &layout);
                let is_right = rest.starts_with(&digest(head).to_le_bytes());
                assert_eq!(checked.is_ok(), !layout.header_digest || is_right);
            }
            let mut out = Vec::new();
            append_header(&mut out, header);
            assert!(out.starts_with(header.as_bytes()));
            true
        }
        Err(error) => {
            let termination = error.termination(limits.receiver, bytes.len());
            assert!(!error.to_string().is_empty());
            assert!(termination.header.plen.get() <= 24 + 128);
            false
        }
    }
}

pub(super) fn command_seeds() -> Vec<Vec<u8>> {
    let commands: [Sqe; 4] = [
        Rw::new(IoOpcode::Write, 1, 77, 8).into(),
        Connect::new(1, 128, 30_000).into(),
        GetLogPage::new(2, 1, 0, 512).into(),
        Sqe::admin(AdminOpcode::AsyncEventRequest),
    ];
    let completion = Cqe::new(7, 3, Status::default(), 99);
    commands.iter().map(|sqe| [sqe.as_bytes(), completion.as_bytes()].concat()).collect()
}

/// A submission queue entry in each of its views, and a completion queue entry.
pub(super) fn command(data: &[u8]) -> bool {
    let Ok((sqe, rest)) = Sqe::ref_from_prefix(data) else { return false };
    assert_eq!(Sqe::from(*sqe.view::<Connect>()), *sqe);
    assert_eq!(Sqe::from(*sqe.view::<Identify>()), *sqe);
    assert_eq!(Sqe::from(*sqe.view::<Abort>()), *sqe);
    assert_eq!(Sqe::from(*sqe.view::<Features>()), *sqe);
    assert!((1..=1 << 16).contains(&sqe.view::<Rw>().blocks()));
    assert!((4..=1 << 34).contains(&sqe.view::<GetLogPage>().length_bytes()));
    match sqe.sgl.kind() {
        SglKind::InCapsule { length_bytes, .. } | SglKind::Transport { length_bytes } => {
            assert_eq!(length_bytes, sqe.sgl.length_bytes.get());
        }
        SglKind::Unsupported { .. } => {}
    }
    let _ = (sqe.fuse(), sqe.psdt(), sqe.sgl.sgl_type());
    if let Ok(opcode) = AdminOpcode::try_from(sqe.opcode) {
        assert_eq!(u8::from(opcode), sqe.opcode);
    }
    if let Ok(fabrics_type) = FabricsType::try_from(sqe.fabrics_type()) {
        assert_eq!(u8::from(fabrics_type), sqe.fabrics_type());
    }
    if let Ok((cqe, _)) = Cqe::ref_from_prefix(rest) {
        let status = cqe.status();
        assert_eq!(Status::from_field(status.to_field()), status);
        assert!(!status.to_string().is_empty());
    }
    true
}

pub(super) fn connect_data_seeds() -> Vec<Vec<u8>> {
    let long = format!("nqn.2014-08.org.nvmexpress:uuid:{}", "a".repeat(191));
    let names = [("nqn.2016-06.io.spdk:cnode1", "nqn.2014-08.org.nvmexpress:uuid:1"), (long.as_str(), "ä")];
    let data = names.map(|(subsystem, host)| ConnectData::new([7; 16], 0xFFFF, subsystem, host));
    data.iter().map(|data| data.as_ref().expect("the names fit").as_bytes().to_vec()).collect()
}

pub(super) fn connect_data(data: &[u8]) -> bool {
    let Ok((connect, _)) = ConnectData::ref_from_prefix(data) else { return false };
    let (Ok(subsystem), Ok(host)) = (connect.subsystem_nqn(), connect.host_nqn()) else { return false };
    let again = ConnectData::new(connect.host_id, connect.controller_id.get(), subsystem, host);
    let again = again.expect("what was read from the fields fits them");
    assert_eq!((again.subsystem_nqn(), again.host_nqn()), (Ok(subsystem), Ok(host)));
    assert_eq!((again.host_id, again.controller_id), (connect.host_id, connect.controller_id));
    true
}

pub(super) fn identify_seeds() -> Vec<Vec<u8>> {
    let ids =
        NamespaceIds { eui64: Some([1; 8]), nguid: Some([2; 16]), uuid: Some([3; 16]), command_set: Some(0) };
    let mut controllers = ControllerList::default();
    controllers.count.set(2);
    let mut namespace = vec![0; 4096];
    namespace[25] = 3;
    namespace[130] = 12;
    vec![NamespaceDescriptors::from(ids).as_bytes().to_vec(), controllers.as_bytes().to_vec(), namespace]
}

/// One page of Identify or of the discovery log, read as each of them: the host does not choose
/// what a controller sends.
pub(super) fn identify(data: &[u8]) -> bool {
    if let Ok((list, _)) = NamespaceDescriptors::ref_from_prefix(data)
        && let Ok(ids) = list.ids()
    {
        assert_eq!(NamespaceDescriptors::from(ids).ids(), Ok(ids));
    }
    if let Ok((list, _)) = NamespaceList::ref_from_prefix(data) {
        assert!(list.iter().all(|nsid| nsid != 0));
    }
    if let Ok((list, _)) = ControllerList::ref_from_prefix(data) {
        assert!(list.iter().count() <= 2047);
    }
    if let Ok((namespace, _)) = IdentifyNamespace::ref_from_prefix(data) {
        assert!(namespace.block_bytes().is_none_or(u32::is_power_of_two));
    }
    if let Ok((controller, _)) = IdentifyController::ref_from_prefix(data) {
        let texts = [controller.serial_number(), controller.model_number(), controller.firmware_revision()];
        assert!(texts.iter().flatten().all(|text| !text.ends_with(' ')));
        let _ = (controller.subsystem_nqn(), controller.io_in_capsule_bytes());
    }
    if let Ok((entry, _)) = DiscoveryEntry::ref_from_prefix(data) {
        let _ = (entry.subsystem_nqn(), entry.transport_address(), entry.service_id());
    }
    data.len() >= 4096
}
