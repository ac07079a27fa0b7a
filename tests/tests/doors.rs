//! Who can read what is stored, who can delete it, and what the unit permits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use varve::nvmf::host::{ConnectOptions, Controller};
use varve::nvmf::nqn;
use varve_tests::appliance::rounds::Host;
use varve_tests::appliance::{Appliance, ApplianceConfig};

const SERVE: [&str; 6] = ["--pool-size", "64MiB", "--volume-size", "4MiB", "--seal-seconds", "0"];

/// Every file and directory below a folder.
fn everything(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a list") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            everything(&path, found);
        }
        found.push(path);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// Files and directories with any permission for others.
fn open_to_others(folder: &Path) -> Vec<String> {
    let mut found = vec![folder.to_owned()];
    everything(folder, &mut found);
    assert!(found.len() > 3, "{found:?}");
    found.retain(|path| mode(path) & 0o077 != 0);
    found.iter().map(|path| format!("{:o} {}", mode(path), path.display())).collect()
}

#[test]
fn nobody_else_can_look_at_what_is_stored() {
    // The programs that this test starts inherit it from this process.
    rustix::process::umask(rustix::fs::Mode::empty());
    for spec in ["STORE", "device:STORE/device,size=64MiB", "tape:STORE,cartridges=2,size=32MiB"] {
        let folder = tempfile::tempdir().expect("a folder");
        // Someone else made both directories, readable for everybody.
        let (pool, store) = (folder.path().join("pool"), folder.path().join("store"));
        for directory in [&pool, &store] {
            fs::create_dir(directory).expect("made");
            assert_eq!(mode(directory), 0o777);
        }
        let spec = spec.replace("STORE", store.to_str().expect("plain letters"));
        let arguments: Vec<&str> = SERVE.iter().copied().chain(["--archive", &spec]).collect();
        let config = ApplianceConfig::with_arguments(&arguments);
        let mut appliance = Appliance::start_in(&config, &pool).expect("it starts");
        let fill = |appliance: &Appliance, round| {
            Host::connect(appliance, "vol0").write_round(round);
            appliance.rpc("synch_create", json!({"label": format!("s{round}")})).expect("a synch");
            appliance.rpc("archive_set_keep", json!({"rules": "synch 30d"})).expect("rules");
            appliance.command(&["archive", "seal"]).expect("it seals");
        };
        fill(&appliance, 1);
        let is_device = spec.starts_with("device:");
        let store_made = if is_device { store.join("device") } else { store.clone() };
        let check = |when: &str| {
            assert_eq!(open_to_others(&pool), Vec::<String>::new(), "{when}, {spec}");
            if is_device {
                assert_eq!(mode(&store_made), 0o600, "{when}, {spec}");
            } else {
                assert_eq!(open_to_others(&store_made), Vec::<String>::new(), "{when}, {spec}");
            }
        };
        check("as they were made");
        // The modes that an earlier version left under a lax umask.
        appliance.stop().expect("it stops");
        let mut all = vec![pool.clone(), store.clone()];
        everything(folder.path(), &mut all);
        for path in all {
            let mode = if path.is_dir() { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        }
        appliance.restart().expect("it starts");
        fill(&appliance, 2);
        check("after a restart");
    }
}

#[test]
fn a_volume_in_use_is_deleted_only_by_force() {
    let appliance = Appliance::start(&ApplianceConfig::with_arguments(&SERVE)).expect("it starts");
    for name in ["one", "two"] {
        appliance.rpc("volume_create", json!({"name": name, "size": "64KiB"})).expect("made");
    }
    let host = || {
        let options = ConnectOptions {
            host_nqn: "nqn.2026-11.test:accounts".to_owned(),
            keep_alive_timeout_ms: 0,
            ..ConnectOptions::default()
        };
        let address = ([127, 0, 0, 1], appliance.port()).into();
        Controller::connect(address, &nqn::of_volume("one"), options).expect("it connects")
    };
    let (first, second) = (host(), host());
    let refused = appliance.rpc("volume_delete", json!({"name": "one"})).expect_err("it is in use");
    let refused = refused.to_string();
    assert_eq!(refused.matches("nqn.2026-11.test:accounts").count(), 1, "{refused}");
    assert!(refused.contains("--force") && refused.contains("-16"), "{refused}");
    let refused = appliance.command(&["volume", "delete", "one"]).expect_err("it is in use").to_string();
    assert!(refused.contains("nqn.2026-11.test:accounts"), "{refused}");
    appliance.rpc("volume_delete", json!({"name": "two"})).expect("nobody uses it");
    // A host that has disconnected does not count, even immediately.
    drop((first, second));
    appliance.rpc("volume_delete", json!({"name": "one"})).expect("nobody uses it any more");
    appliance.rpc("volume_create", json!({"name": "one", "size": "64KiB"})).expect("made again");
    let mut third = host();
    let said = appliance.command(&["volume", "delete", "one", "--force"]).expect("by force");
    assert_eq!(said, "volume one is deleted\n");
    assert!(third.namespaces().map_or(true, |namespaces| namespaces.is_empty()));
}

#[test]
fn the_unit_lets_nobody_in_who_was_not_named() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/varve.service");
    let text = fs::read_to_string(&unit).expect("the unit");
    let settings: Vec<&str> =
        text.lines().filter(|line| !line.starts_with('#') && line.contains('=')).collect();
    for wanted in [
        "Type=notify",
        "WatchdogSec=60",
        "StateDirectory=varve",
        "LimitNOFILE=65536",
        "Environment=LISTEN=127.0.0.1:4420",
        "IPAddressDeny=any",
        "NoNewPrivileges=true",
        "ProtectSystem=strict",
        "PrivateTmp=true",
        "CapabilityBoundingSet=",
        "SystemCallFilter=@system-service",
    ] {
        assert!(settings.contains(&wanted), "{wanted}");
    }
    assert!(settings.iter().any(|line| line.starts_with("RestrictAddressFamilies=")));
    assert!(!settings.iter().any(|line| line.contains("0.0.0.0") || line.contains("[::]")), "{text}");

    // `systemd-analyze` knows every setting; it is used where it is installed.
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        varve::missing::say("doors", "systemd-analyze, which judges the unit, is not installed");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path().join("varve.service");
    fs::write(&here, text.replace("/usr/bin/varve", "/bin/true")).expect("written");
    fs::set_permissions(&here, fs::Permissions::from_mode(0o644)).expect("ours");
    for arguments in [&["verify"][..], &["security", "--offline=true", "--threshold=25"]] {
        let output = Command::new("/usr/bin/systemd-analyze").args(arguments).arg(&here).output();
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{arguments:?}: {said}");
    }
}
