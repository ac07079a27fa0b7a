//! Admin commands and the management plane: what is identified, logged, set, counted.

use std::net::SocketAddr;

use zerocopy::FromBytes;

use super::{BLOCK, Served};
use crate::nvmf::host::{ConnectOptions, Payload};
use crate::nvmf::server::ListenError;
use crate::nvmf::wire::command::{Abort, Cns, FLAGS_SGL, Features, Identify, Sqe};
use crate::nvmf::wire::feature::FeatureId;
use crate::nvmf::wire::log_page::{ErrorInformation, LogPageId, Smart};
use crate::nvmf::wire::opcode::AdminOpcode;
use crate::nvmf::wire::status::Status;

#[test]
fn every_identify_that_exists_answers_and_no_other() {
    let served = Served::start();
    let (mut controller, queue) = served.open(ConnectOptions::default());
    let mut identify = |cns: u8, nsid: u32| {
        let mut command = Identify::new(Cns::Controller, nsid);
        command.cns = cns;
        let mut page = vec![0; 4096];
        let (status, _) =
            controller.admin(command.into(), Payload::Read(4096), &mut page).expect("the connection lives");
        (status.code_only(), page)
    };
    for (cns, nsid, status) in [
        (0x00, 1, Status::SUCCESS),
        (0x00, u32::MAX, Status::SUCCESS),
        (0x00, 2, Status::INVALID_NAMESPACE),
        (0x00, 0, Status::INVALID_NAMESPACE),
        (0x01, 0, Status::SUCCESS),
        (0x02, 0, Status::SUCCESS),
        (0x02, u32::MAX, Status::INVALID_NAMESPACE),
        (0x03, 1, Status::SUCCESS),
        (0x03, 7, Status::INVALID_NAMESPACE),
        (0x04, 0, Status::INVALID_FIELD),
        (0x05, 1, Status::SUCCESS),
        (0x06, 0, Status::SUCCESS),
        (0x07, 0, Status::SUCCESS),
        (0x08, 1, Status::SUCCESS),
        (0x10, 0, Status::SUCCESS),
        (0x11, 1, Status::SUCCESS),
        (0x12, 1, Status::SUCCESS),
        (0x13, 0, Status::SUCCESS),
        (0x14, 0, Status::INVALID_FIELD),
        (0x15, 0, Status::SUCCESS),
        (0x16, 0, Status::SUCCESS),
        (0x1C, 0, Status::SUCCESS),
        (0x55, 0, Status::INVALID_FIELD),
    ] {
        assert_eq!(identify(cns, nsid).0, status, "CNS {cns:#x} of {nsid}");
    }
    let (_, controllers) = identify(0x13, 0);
    assert_eq!(controllers[..2], [1, 0]);
    let namespaces = controller.namespaces().expect("it lists");
    assert_eq!(namespaces.len(), 1);
    let ids = namespaces[0].ids;
    assert!(ids.uuid.is_some() && ids.nguid == ids.uuid);
    assert_eq!(namespaces[0].identify.nguid, ids.uuid.expect("it has one"));
    drop((controller, queue));
    served.finish();
}

#[test]
fn logs_tell_what_happened() {
    let served = Served::start();
    let (mut controller, mut queue) = served.open(ConnectOptions::default());
    queue.write(0, &vec![1; 32 * BLOCK]).expect("it is written");
    for _ in 0..10 {
        queue.read(0, &mut vec![0; 32 * BLOCK]).expect("it is read");
    }
    queue.read(1 << 40, &mut vec![0; BLOCK]).expect_err("beyond the end");
    let page = controller.log_page(LogPageId::Smart.into(), u32::MAX, 512).expect("the page");
    let smart = Smart::read_from_bytes(&page).expect("512 bytes");
    assert_eq!((smart.host_reads.get(), smart.host_writes.get()), (10, 1));
    assert_eq!((smart.data_units_read.get(), smart.data_units_written.get()), (3, 1));
    assert_eq!(smart.media_errors.get(), 0);
    let page = controller.log_page(LogPageId::ErrorInformation.into(), 0, 64).expect("the page");
    let error = ErrorInformation::read_from_bytes(&page).expect("64 bytes");
    assert_eq!(error.error_count.get(), smart.error_log_entries.get() as u64);
    assert_eq!((error.sq_id.get(), error.lba.get(), error.nsid.get()), (1, 1 << 40, 1));
    assert_eq!(Status::from_field(error.status.get()).code_only(), Status::LBA_OUT_OF_RANGE);
    for (page, bytes) in [(0x00, 1024), (0x01, 4096), (0x02, 512), (0x03, 512), (0x04, 4096), (0x05, 4096)] {
        assert_eq!(controller.log_page(page, 0, bytes).expect("the page").len(), bytes as usize);
    }
    for page in [0x06, 0x0C, 0x0D, 0x70, 0x80, 0xC0] {
        assert!(controller.log_page(page, 0, 512).is_err(), "page {page:#x}");
    }
    // From an offset it is the same page.
    let mut part = vec![0; 256];
    controller.log_page_at(LogPageId::CommandEffects.into(), 0, 1024, &mut part).expect("the page");
    let whole = controller.log_page(LogPageId::CommandEffects.into(), 0, 4096).expect("the page");
    assert_eq!(part, whole[1024..1280]);
    drop((controller, queue));
    served.finish();
}

#[test]
fn features_are_set_and_read_back() {
    let served = Served::start();
    let (mut controller, queue) = served.open(ConnectOptions::default());
    for (feature, value) in [
        (FeatureId::Arbitration, 3),
        (FeatureId::TemperatureThreshold, 350),
        (FeatureId::ErrorRecovery, 7),
        (FeatureId::WriteAtomicity, 1),
        (FeatureId::AsyncEventConfiguration, 0x100),
        (FeatureId::KeepAliveTimer, 20_000),
    ] {
        controller.set_feature(feature.into(), 0, value, &[]).expect("it is set");
        assert_eq!(
            controller.get_feature(feature.into(), 0, &mut []).expect("it is read"),
            value,
            "{feature:?}"
        );
    }
    let now = 1_700_000_000_000_u64;
    controller.set_feature(FeatureId::Timestamp.into(), 0, 0, &now.to_le_bytes()).expect("it is set");
    let mut time = [0; 8];
    controller.get_feature(FeatureId::Timestamp.into(), 0, &mut time).expect("it is read");
    assert_eq!(time[6], 0b10);
    time[6] = 0;
    assert!((0..60_000).contains(&(u64::from_le_bytes(time) - now)));
    let mut behavior = vec![0; 512];
    behavior[0] = 1;
    controller.set_feature(FeatureId::HostBehavior.into(), 0, 0, &behavior).expect("it is set");
    let mut read = vec![0; 512];
    controller.get_feature(FeatureId::HostBehavior.into(), 0, &mut read).expect("it is read");
    assert_eq!(read, behavior);
    // Saving, a feature that does not exist, and a feature that is set too late.
    let mut status = |command: Features| {
        controller.admin(command.into(), Payload::None, &mut []).expect("the connection lives").0.code_only()
    };
    let features = |opcode: AdminOpcode, feature: u8| Features {
        opcode: opcode.into(),
        flags: FLAGS_SGL,
        feature,
        ..Features::default()
    };
    let save = Features { save: 1 << 7, ..features(AdminOpcode::SetFeatures, 1) };
    assert_eq!(status(save), Status::FEATURE_NOT_SAVEABLE);
    assert_eq!(status(features(AdminOpcode::GetFeatures, 0x10)), Status::INVALID_FIELD);
    assert_eq!(status(features(AdminOpcode::GetFeatures, 0x06)), Status::INVALID_FIELD);
    assert_eq!(status(features(AdminOpcode::GetFeatures, 0xC0)), Status::INVALID_FIELD);
    assert_eq!(status(features(AdminOpcode::SetFeatures, 0x07)), Status::COMMAND_SEQUENCE_ERROR);
    assert_eq!(status(features(AdminOpcode::GetFeatures, 0x81)), Status::HOST_ID_INCONSISTENT);
    drop((controller, queue));
    served.finish();
}

#[test]
fn other_admin_commands() {
    let served = Served::start();
    let (mut controller, queue) = served.open(ConnectOptions::default());
    let abort = Abort { opcode: AdminOpcode::Abort.into(), flags: FLAGS_SGL, ..Abort::default() };
    assert_eq!(
        controller.admin(abort.into(), Payload::None, &mut []).expect("it lives"),
        (Status::SUCCESS, 1)
    );
    for opcode in [0x00, 0x0D, 0x10, 0x14, 0x80, 0x84, 0xC0] {
        let (status, _) = controller.admin(Sqe::new(opcode, 0), Payload::None, &mut []).expect("it lives");
        assert_eq!(status.code_only(), Status::INVALID_OPCODE, "opcode {opcode:#x}");
    }
    drop((controller, queue));
    served.finish();
}

#[test]
fn the_management_plane_sees_everything() {
    let served = Served::start();
    let options = ConnectOptions { io_queues: 2, ..ConnectOptions::default() };
    let (controller, mut queue) = served.open(options.clone());
    queue.write(0, &vec![1; 2 * BLOCK]).expect("it is written");
    queue.read(0, &mut vec![0; BLOCK]).expect("it is read");
    let (subsystems, controllers, queue_pairs, stats) = served.with(|state| {
        let target = &state.target;
        (target.subsystems(), target.controllers(), target.queue_pairs(), target.stats())
    });
    assert_eq!(subsystems.len(), 3);
    let one = subsystems.iter().find(|subsystem| subsystem.volume == "one").expect("it is there");
    assert_eq!((one.controllers, one.size_blocks), (1, super::BLOCKS));
    assert_eq!(controllers.len(), 1);
    assert_eq!(controllers[0].host_nqn, options.host_nqn);
    assert!(controllers[0].ready);
    assert_eq!(queue_pairs.len(), 2);
    let io = queue_pairs.iter().find(|pair| pair.queue_id == 1).expect("it is there");
    assert_eq!((io.reads, io.read_bytes, io.writes, io.written_bytes), (1, 4096, 1, 8192));
    assert_eq!(stats.connections, 2);
    assert!(stats.commands > 5 && stats.received_bytes > 8192 && stats.sent_bytes > 4096);
    drop((controller, queue));
    served.finish();
}

#[test]
fn listening_says_what_is_wrong_and_shutdown_is_final() {
    let served = Served::start();
    let address = served.address;
    let again = served.with(move |state| state.target.listen(address));
    assert!(matches!(again, Err(ListenError::AddressInUse { address: taken }) if taken == address));
    let foreign: SocketAddr = "192.0.2.1:4420".parse().expect("an address");
    let refused = served.with(move |state| state.target.listen(foreign)).expect_err("not our address");
    assert!(refused.to_string().contains("192.0.2.1:4420"));
    let controller = served.connect(ConnectOptions::default());
    served.with(|state| state.target.shutdown());
    assert!(matches!(
        served.with(move |state| state.target.listen(address)),
        Err(ListenError::ShutDown { .. })
    ));
    drop(controller);
    served.finish();
}
