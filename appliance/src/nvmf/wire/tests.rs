//! Byte vectors computed by hand from the specifications, and properties of the codecs.

use proptest::prelude::*;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::command::{
    Cns, Cqe, DatasetManagement, DatasetRange, Features, GetLogPage, Identify, Rw, Sqe, dataset_attribute,
    rw_control,
};
use super::discovery::DiscoveryEntry;
use super::fabrics::{
    Connect, ConnectData, ConnectResult, PROPERTY_8_BYTES, PropertyGet, connect_data_offset,
    connect_invalid_parameter,
};
use super::feature::{AsyncEvent, QueueCounts, Timestamp};
use super::identify::{
    IdentifyController, IdentifyNamespace, LbaFormat, NamespaceDescriptors, NamespaceDescriptorsError,
    NamespaceIds,
};
use super::opcode::{AdminOpcode, DataDirection, FabricsType, IoOpcode};
use super::pdu::{
    C2hData, CapsuleResp, CommonHeader, Digests, FatalError, H2cData, IcReq, IcResp, PduType, R2t, TermReq,
    flags,
};
use super::pdu_check::{
    PduError, PduLimits, Receiver, append_header, check_data, check_header, check_header_digest, digest,
};
use super::property::{Cap, Cc, Csts, Property};
use super::sgl::{SglDescriptor, SglKind};
use super::status::Status;
use super::text;

const BOTH: Digests = Digests { header: true, data: true };

fn limits(receiver: Receiver, digests: Digests) -> PduLimits {
    PduLimits {
        receiver,
        digests,
        data_alignment_bytes: 4,
        in_capsule_bytes_max: 8192,
        data_bytes_max: 131_072,
    }
}

#[test]
fn connection_initialization_bytes() {
    let mut expected = [0_u8; 128];
    expected[..16].copy_from_slice(&[0x00, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0]);
    assert_eq!(IcReq::new(BOTH).as_bytes(), expected);

    let response = IcResp::new(Digests { header: true, data: false }, 131_072);
    expected[..16].copy_from_slice(&[0x01, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 0]);
    assert_eq!(response.as_bytes(), expected);
}

#[test]
fn data_and_response_bytes() {
    let r2t = R2t::new(0x1234, 0x0005, 0x2000, 0x1_0000, true);
    assert_eq!(
        r2t.as_bytes(),
        [9, 1, 24, 0, 28, 0, 0, 0, 0x34, 0x12, 5, 0, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    );
    let mut data = C2hData {
        header: CommonHeader::with_data(PduType::C2hData, BOTH, 4, 4096),
        command_id: U16::new(7),
        data_bytes: U32::new(4096),
        ..C2hData::default()
    };
    data.header.flags |= flags::LAST | flags::SUCCESS;
    // 28 bytes of header with digest, 4096 of data, 4 of digest: 4128.
    assert_eq!(data.as_bytes()[..10], [7, 0x0F, 24, 28, 0x20, 0x10, 0, 0, 7, 0]);

    let cqe = Cqe::new(3, 9, Status::LBA_OUT_OF_RANGE.do_not_retry(), 0);
    let response = CapsuleResp::new(cqe, false);
    // SC 80h at bits 8:1 and DNR at bit 15 of the last half-word.
    assert_eq!(
        response.as_bytes(),
        [5, 0, 24, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0x81]
    );
    let termination = TermReq::new(PduType::C2hTermReq, FatalError::InvalidHeaderField, 2, 500);
    assert_eq!(termination.as_bytes()[..14], [3, 0, 24, 0, 152, 0, 0, 0, 1, 0, 2, 0, 0, 0]);
}

#[test]
fn command_bytes() {
    let mut read = Rw::new(IoOpcode::Read, 1, 0x1_0000_0000, 8);
    read.command_id = U16::new(0x0102);
    read.sgl = SglDescriptor::transport(4096);
    read.control = U16::new(rw_control::FORCE_UNIT_ACCESS);
    let mut expected = [0_u8; 64];
    expected[..8].copy_from_slice(&[0x02, 0x40, 2, 1, 1, 0, 0, 0]);
    expected[32..36].copy_from_slice(&[0, 0x10, 0, 0]);
    expected[39] = 0x5A;
    expected[44] = 1;
    expected[48..52].copy_from_slice(&[7, 0, 0, 0x40]);
    assert_eq!(read.as_bytes(), expected);
    let generic = Sqe::from(read);
    assert_eq!(generic.cdw12.get(), 7 | 1 << 30);
    assert_eq!(generic.view::<Rw>().blocks(), 8);
    assert!(generic.view::<Rw>().has(rw_control::FORCE_UNIT_ACCESS));

    let identify = Sqe::from(Identify::new(Cns::NamespaceDescriptors, 5));
    assert_eq!((identify.opcode, identify.nsid.get(), identify.cdw10.get()), (6, 5, 3));

    let log = Sqe::from(GetLogPage::new(0x70, 0, 1024, 0x4_0004));
    assert_eq!(log.cdw10.get(), 0x0000_0070);
    assert_eq!(log.cdw11.get(), 1);
    assert_eq!((log.cdw12.get(), log.cdw13.get()), (1024, 0));
    assert_eq!(log.view::<GetLogPage>().length_bytes(), 0x4_0004);

    let mut feature = Sqe::admin(AdminOpcode::SetFeatures);
    feature.cdw10 = U32::new(0x8000_0007);
    feature.cdw11 = U32::new(QueueCounts::new(4).to_dword());
    let view = feature.view::<Features>();
    assert_eq!((view.feature, view.save, view.value.get()), (7, 0x80, 0x0003_0003));
    assert_eq!(QueueCounts::from_dword(0x0001_0003).queues(), 2);

    let trim = DatasetManagement {
        opcode: IoOpcode::DatasetManagement.into(),
        ranges_less_one: 1,
        attributes: U32::new(dataset_attribute::DEALLOCATE),
        ..DatasetManagement::default()
    };
    assert_eq!((Sqe::from(trim).cdw10.get(), Sqe::from(trim).cdw11.get()), (1, 4));
    let range = DatasetRange { context: U32::ZERO, blocks: U32::new(16), start_lba: U64::new(32) };
    assert_eq!(range.as_bytes(), [0, 0, 0, 0, 16, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn fabrics_bytes() {
    let connect = Sqe::from(Connect::new(1, 128, 15_000));
    assert_eq!((connect.opcode, connect.fabrics_type()), (0x7F, 0x01));
    assert_eq!(connect.cdw10.get(), 0x0001_0000);
    assert_eq!((connect.cdw11.get(), connect.cdw12.get()), (127, 15_000));

    let data = ConnectData::new([0xAB; 16], 0xFFFF, "nqn.s", "nqn.h").unwrap();
    let bytes = data.as_bytes();
    assert_eq!(bytes[..18], [[0xAB_u8; 16].as_slice(), &[0xFF, 0xFF]].concat());
    assert_eq!(&bytes[256..262], b"nqn.s\0");
    assert_eq!(&bytes[512..518], b"nqn.h\0");
    assert!(ConnectData::new([0; 16], 0, &"n".repeat(256), "").is_err());

    let get = PropertyGet {
        fabrics_type: FabricsType::PropertyGet.into(),
        size: PROPERTY_8_BYTES,
        offset: U32::new(Property::Capabilities.into()),
        ..PropertyGet::default()
    };
    assert_eq!((Sqe::from(get).cdw10.get(), Sqe::from(get).cdw11.get()), (1, 0));
    assert_eq!(ConnectResult::new(0x0102).to_result(), 0x0102);
    assert_eq!(ConnectResult::from_result(0x0002_0001).authentication.get(), 2);
    assert_eq!(connect_invalid_parameter(connect_data_offset::SUBSYSTEM_NQN, true), 0x0001_0100);
}

#[test]
fn registers_and_events() {
    let cap = Cap::default()
        .with_queue_entries_less_one(127)
        .with_contiguous_queues(1)
        .with_timeout_500ms(30)
        .with_nvm_command_set(1);
    assert_eq!(cap.0, 0x0000_0020_1E01_007F);
    assert_eq!(Cc::enabled().0, 0x0046_0001);
    assert_eq!(Cc::enabled().with_shutdown(Cc::SHUTDOWN_NORMAL).0, 0x0046_4001);
    assert_eq!(Csts(0x9).shutdown_status(), Csts::SHUTDOWN_COMPLETE);
    assert_eq!(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword(), 0x0004_0002);
    assert_eq!(AsyncEvent::DISCOVERY_CHANGED.to_dword(), 0x0070_F002);
    assert_eq!(AsyncEvent::ANA_CHANGED.to_dword(), 0x000C_0302);
    assert_eq!(Timestamp::new(0x0123_4567_89AB).milliseconds(), 0x0123_4567_89AB);
    assert_eq!(DataDirection::of_opcode(0x02), DataDirection::ControllerToHost);
    assert_eq!(DataDirection::of_opcode(0x09), DataDirection::HostToController);
}

#[test]
fn status_names_and_fields() {
    assert_eq!(Status::UNRECOVERED_READ_ERROR.to_field(), 0x0502);
    assert_eq!(
        Status::CONNECT_INVALID_HOST.do_not_retry().to_string(),
        "Connect Invalid Host (1h/84h, do not retry)"
    );
    assert_eq!(Status::new(7, 3).name(), "Vendor Specific Status");
    assert_eq!(Status::new(0, 0x70).name(), "Unknown Status");
    for (index, status) in Status::KNOWN.iter().enumerate() {
        assert!(!Status::KNOWN[..index].contains(status), "{status} is listed twice");
    }
    assert!(!Status::INVALID_FIELD.do_not_retry().is_success());
    assert!(Status::SUCCESS.with_more().is_success());
}

#[test]
fn digest_is_crc32c() {
    // The vectors of RFC 3720 B.4.
    assert_eq!(digest(&[0; 32]), 0x8A91_36AA);
    assert_eq!(digest(&[0xFF; 32]), 0x62A8_AB43);
    let ascending: Vec<u8> = (0..32).collect();
    assert_eq!(digest(&ascending), 0x46DD_794E);
}

#[test]
fn header_digest_is_appended_and_checked() {
    let mut pdu = Vec::new();
    append_header(&mut pdu, &R2t::new(1, 2, 0, 4096, true));
    assert_eq!(pdu.len(), 28);
    let header = CommonHeader::ref_from_prefix(&pdu).unwrap().0;
    let layout = check_header(header, &limits(Receiver::Host, BOTH)).unwrap();
    assert_eq!(check_header_digest(&pdu, &layout), Ok(()));
    pdu[12] ^= 1;
    let error = check_header_digest(&pdu, &layout).unwrap_err();
    assert_eq!(error.fatal_error(), FatalError::HeaderDigestError);
    assert!(check_header_digest(&pdu[..26], &layout).is_err());
    let mut plain = Vec::new();
    append_header(&mut plain, &R2t::new(1, 2, 0, 4096, false));
    assert_eq!(plain.len(), 24);
}

#[test]
fn wrong_headers_name_the_field() {
    let plain = limits(Receiver::Controller, Digests::default());
    let good = CommonHeader::with_data(PduType::CapsuleCmd, Digests::default(), 4, 4096);
    let layout = check_header(&good, &plain).unwrap();
    assert_eq!((layout.data_offset, layout.data_bytes, layout.pdu_bytes), (72, 4096, 4168));
    assert_eq!(check_data(&layout, 4095).unwrap_err().information(), 16);

    let wrong = |change: &dyn Fn(&mut CommonHeader)| {
        let mut header = good;
        change(&mut header);
        check_header(&header, &plain).unwrap_err().information()
    };
    assert_eq!(wrong(&|header| header.pdu_type = 0x08), 0);
    assert_eq!(wrong(&|header| header.pdu_type = PduType::R2t.into()), 0);
    assert_eq!(wrong(&|header| header.flags = flags::HEADER_DIGEST), 1);
    assert_eq!(wrong(&|header| header.flags = flags::DATA_DIGEST), 1);
    assert_eq!(wrong(&|header| header.hlen = 24), 2);
    assert_eq!(wrong(&|header| header.pdo = 68), 3);
    assert_eq!(wrong(&|header| header.pdo = 74), 3);
    assert_eq!(wrong(&|header| header.plen = U32::new(71)), 4);
    assert_eq!(wrong(&|header| header.plen = U32::new(72 + 8193)), 4);

    let big = CommonHeader::with_data(PduType::H2cData, Digests::default(), 4, 131_073);
    let error = check_header(&big, &plain).unwrap_err();
    assert_eq!(error.fatal_error(), FatalError::LimitExceeded);
    let empty = CommonHeader::without_data(PduType::H2cData, false);
    assert!(matches!(check_header(&empty, &plain), Err(PduError::Length { value: 24 })));
    let termination = error.termination(Receiver::Controller, 24);
    assert_eq!(termination.header.pdu_type, 3);
    assert_eq!(termination.header.plen.get(), 48);
}

#[test]
fn identify_fields_land_where_the_host_reads_them() {
    let mut controller = IdentifyController::new_zeroed();
    text::set_space_padded(&mut controller.serial_number, "S1").unwrap();
    controller.io_command_capsule_16b = U32::new((64 + 8192) / 16);
    let bytes = controller.as_bytes();
    assert_eq!(&bytes[4..24], b"S1                  ");
    assert_eq!(bytes[1792..1796], [0x04, 0x02, 0, 0]);
    assert_eq!(controller.io_in_capsule_bytes(), 8192);
    assert_eq!(controller.serial_number(), Ok("S1"));

    let mut namespace = IdentifyNamespace::new_zeroed();
    namespace.formats[1] = LbaFormat::new(12);
    assert_eq!(namespace.block_bytes(), None);
    namespace.format_in_use = 1;
    assert_eq!(namespace.block_bytes(), Some(4096));
    assert_eq!(namespace.as_bytes()[128 + 4 + 2], 12);

    let mut entry = DiscoveryEntry::new_zeroed();
    text::set_space_padded(&mut entry.service_id, "4420").unwrap();
    text::set_nul_terminated(&mut entry.subsystem_nqn, "nqn.x").unwrap();
    assert_eq!(&entry.as_bytes()[32..37], b"4420 ");
    assert_eq!((entry.service_id(), entry.subsystem_nqn()), (Ok("4420"), Ok("nqn.x")));
}

#[test]
fn namespace_descriptor_bytes() {
    let ids = NamespaceIds { uuid: Some([9; 16]), command_set: Some(0), ..NamespaceIds::default() };
    let list = NamespaceDescriptors::from(ids);
    assert_eq!(list.bytes[..4], [3, 16, 0, 0]);
    assert_eq!(list.bytes[20..26], [4, 1, 0, 0, 0, 0]);
    let mut wrong = list;
    wrong.bytes[1] = 8;
    assert!(matches!(
        wrong.ids(),
        Err(NamespaceDescriptorsError::Length { descriptor_type: 3, offset: 0, found: 8 })
    ));
}

fn any_digests() -> impl Strategy<Value = Digests> {
    (any::<bool>(), any::<bool>()).prop_map(|(header, data)| Digests { header, data })
}

proptest! {
    #[test]
    fn a_header_that_passes_describes_the_whole_pdu(
        bytes: [u8; 8],
        type_byte in 0_u8..10,
        controller: bool,
        digests in any_digests(),
    ) {
        let mut header: CommonHeader = zerocopy::transmute!(bytes);
        header.pdu_type = type_byte;
        header.plen = U32::new(header.plen.get() % 16_384);
        if let Ok(known) = PduType::try_from(type_byte) {
            header.hlen = known.header_bytes();
        }
        let receiver = if controller { Receiver::Controller } else { Receiver::Host };
        if let Ok(layout) = check_header(&header, &limits(receiver, digests)) {
            let tail = if layout.data_digest { 4 } else { 0 };
            prop_assert!(layout.head_bytes() as u32 <= layout.data_offset);
            prop_assert_eq!(layout.data_offset + layout.data_bytes + tail, layout.pdu_bytes);
            prop_assert_eq!(layout.pdu_bytes, header.plen.get());
        }
    }

    #[test]
    fn a_built_header_passes_its_receiver(
        data_bytes in 1_u32..8192,
        alignment in 1_u8..=32,
        digests in any_digests(),
        kind in 0_usize..3,
    ) {
        let pdu_type = [PduType::CapsuleCmd, PduType::H2cData, PduType::C2hData][kind];
        let receiver = if pdu_type.is_from_host() { Receiver::Controller } else { Receiver::Host };
        let header = CommonHeader::with_data(pdu_type, digests, alignment * 4, data_bytes);
        let limits = PduLimits { data_alignment_bytes: alignment * 4, ..limits(receiver, digests) };
        let layout = check_header(&header, &limits).unwrap();
        prop_assert_eq!(layout.data_bytes, data_bytes);
        prop_assert_eq!(layout.data_digest, digests.data);
    }

    #[test]
    fn status_survives_its_field(code_type in 0_u8..8, code: u8, final_: bool) {
        let mut status = Status::new(code_type, code);
        if final_ {
            status = status.do_not_retry();
        }
        let back = Status::from_field(status.to_field() | 1);
        prop_assert_eq!(back, status);
        prop_assert_eq!((back.code_type(), back.code()), (code_type, code));
        prop_assert!(!back.to_string().is_empty());
    }

    #[test]
    fn commands_are_the_same_bytes_in_every_view(bytes: [u8; 64]) {
        let sqe: Sqe = zerocopy::transmute!(bytes);
        prop_assert_eq!(Sqe::from(*sqe.view::<Rw>()), sqe);
        prop_assert_eq!(Sqe::from(*sqe.view::<Connect>()), sqe);
        prop_assert_eq!(sqe.view::<Identify>().command_id.get(), sqe.command_id.get());
        let _ = (sqe.fuse(), sqe.psdt(), sqe.sgl.sgl_type());
        match sqe.sgl.kind() {
            SglKind::Unsupported { identifier } => prop_assert_eq!(identifier, bytes[39]),
            SglKind::InCapsule { length_bytes, .. } | SglKind::Transport { length_bytes } => {
                prop_assert_eq!(length_bytes, sqe.sgl.length_bytes.get());
            }
        }
    }

    #[test]
    fn enums_agree_with_their_numbers(value: u8) {
        if let Ok(known) = AdminOpcode::try_from(value) {
            prop_assert_eq!(u8::from(known), value);
        }
        match IoOpcode::try_from(value) {
            Ok(known) => prop_assert_eq!(u8::from(known), value),
            Err(error) => prop_assert_eq!(error.value, u32::from(value)),
        }
    }

    #[test]
    fn namespace_ids_survive_their_list(
        eui64 in proptest::option::of(any::<[u8; 8]>()),
        nguid in proptest::option::of(any::<[u8; 16]>()),
        uuid in proptest::option::of(any::<[u8; 16]>()),
        command_set in proptest::option::of(any::<u8>()),
    ) {
        let ids = NamespaceIds { eui64, nguid, uuid, command_set };
        prop_assert_eq!(NamespaceDescriptors::from(ids).ids(), Ok(ids));
    }

    #[test]
    fn any_bytes_are_a_descriptor_list_or_an_error(
        head in proptest::collection::vec(any::<u8>(), 0..64),
        fill: u8,
    ) {
        let mut list = NamespaceDescriptors { bytes: [fill; 4096] };
        list.bytes[..head.len()].copy_from_slice(&head);
        let _ = list.ids();
    }

    #[test]
    fn text_survives_its_field(name in "[a-z0-9.:-]{0,40}") {
        let mut field = [0xFF_u8; 32];
        let fits = text::set_nul_terminated(&mut field, &name).is_ok();
        prop_assert_eq!(fits, name.len() < 32);
        if fits {
            prop_assert_eq!(text::nul_terminated(&field), Ok(name.as_str()));
        }
        if text::set_space_padded(&mut field, &name).is_ok() {
            prop_assert_eq!(text::padded(&field), Ok(name.as_str()));
        }
    }

    #[test]
    fn register_fields_do_not_touch_each_other(raw: u32, value: u32) {
        let register = Cc(raw).with_shutdown(value);
        prop_assert_eq!(register.shutdown(), value & 3);
        prop_assert_eq!(register.with_shutdown(Cc(raw).shutdown()), Cc(raw));
    }

    #[test]
    fn data_headers_are_read_as_written(bytes: [u8; 24]) {
        let data: H2cData = zerocopy::transmute!(bytes);
        prop_assert_eq!(data.as_bytes(), bytes);
        prop_assert_eq!(&data.data_bytes.get().to_le_bytes(), &bytes[16..20]);
    }
}
