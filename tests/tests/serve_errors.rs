//! An error at a start is one clear line and an exit code that is not 0, and does no harm.

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use varve_tests::appliance::{Appliance, ApplianceConfig, refusal, run};

fn serve(arguments: &[&str]) -> Output {
    run(&[&["serve"], arguments].concat())
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

#[test]
fn a_port_in_use_creates_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let directory = folder.path().join("data");
    let text = refusal(&serve(&["--dir", path(&directory), "--listen", &address]));
    assert!(text.contains(&address) && text.contains("--listen"), "{text}");
    assert!(!directory.join("pool.varve").exists());
}

#[test]
fn a_locked_pool_is_left_alone() {
    let appliance = Appliance::start(&ApplianceConfig::default()).expect("it starts");
    let folder = appliance.pool_folder();
    let text = refusal(&serve(&["--dir", path(&folder), "--listen", "127.0.0.1:0"]));
    assert!(text.contains("in use"), "{text}");
    appliance.command(&["volume", "list"]).expect("the first goes on");
}

#[test]
fn a_file_that_is_no_pool_is_not_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pool.varve");
    let content = vec![0x5a; 8 << 20];
    std::fs::write(&file, &content).expect("written");
    let text = refusal(&serve(&["--dir", path(folder.path()), "--listen", "127.0.0.1:0"]));
    assert!(text.contains("no varve pool"), "{text}");
    assert!(std::fs::read(&file).expect("readable") == content, "nothing was changed");
}

#[test]
fn too_little_space_is_found_before_anything_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let text =
        refusal(&serve(&["--dir", path(folder.path()), "--listen", "127.0.0.1:0", "--pool-size", "4096TiB"]));
    assert!(text.contains("free") && text.contains("--pool-size"), "{text}");
    assert!(!folder.path().join("pool.varve").exists());
    let text =
        refusal(&serve(&["--dir", path(folder.path()), "--listen", "127.0.0.1:0", "--pool-size", "1MiB"]));
    assert!(text.contains("at least"), "{text}");
    assert!(!folder.path().join("pool.varve").exists());
}

#[test]
fn a_configuration_with_a_mistake_is_refused_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.json");
    std::fs::write(
        &config,
        r#"{"subsystems": [{"subsystem": "volume", "config": [
            {"method": "volume_create", "params": {"name": "a", "size": "1MiB"}},
            {"method": "volume_creat", "params": {}}]}]}"#,
    )
    .expect("written");
    let directory = folder.path().join("data");
    let arguments = ["--dir", path(&directory), "--listen", "127.0.0.1:0", "--config", path(&config)];
    let text = refusal(&serve(&arguments));
    assert!(text.contains("volume_creat"), "{text}");
    let missing = refusal(&serve(&[
        "--dir",
        path(&directory),
        "--listen",
        "127.0.0.1:0",
        "--config",
        "/nonexistent/x.json",
    ]));
    assert!(missing.contains("x.json"), "{missing}");
}

#[test]
fn cores_that_are_not_there_are_named_beside_those_that_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("data");
    for option in ["--reactors", "--archive-core"] {
        let text = refusal(&serve(&["--dir", path(&directory), "--listen", "127.0.0.1:0", option, "1023"]));
        let available = varve::reactor::Cores::available().to_string();
        assert!(text.contains(option) && text.contains("core 1023") && text.contains(&available), "{text}");
    }
    assert!(!directory.exists(), "nothing was made");
}

#[test]
fn a_first_volume_that_does_not_fit_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("data");
    let start = ["--dir", path(&directory), "--listen", "127.0.0.1:0"];
    let text = refusal(&serve(&[&start[..], &["--pool-size", "256MiB"]].concat()));
    for part in ["--pool-size", "--volume-size", "--thin", "vol0 of 1 GiB", "Nothing was left behind"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let left: Vec<String> = std::fs::read_dir(&directory)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("pool"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // The next start makes a pool of the requested size.
    let config = ApplianceConfig::with_arguments(&["--pool-size", "512MiB", "--volume-size", "64MiB"]);
    let mut appliance = Appliance::start_in(&config, &directory).expect("it starts");
    let pool = appliance.command(&["pool", "list"]).expect("it answers");
    let volumes = appliance.command(&["volume", "list"]).expect("it answers");
    assert!(pool.contains("512") && volumes.contains("64 MiB"), "{pool}{volumes}");
    // The sizes of an existing pool stay, and the greeting explains how to change them.
    appliance.stop().expect("it stops cleanly");
    let config = ApplianceConfig::with_arguments(&["--pool-size", "1GiB", "--volume-size", "128MiB"]);
    let again = Appliance::start_in(&config, &directory).expect("it starts");
    let said = again.said();
    assert!(
        said.contains("--pool-size 1 GiB is for a new pool only") && said.contains("pool grow"),
        "{said}"
    );
    assert!(said.contains("vol0 has 64 MiB") && said.contains("volume resize vol0 134217728"), "{said}");
}

#[test]
fn an_address_of_no_interface_is_told_from_one_in_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("data");
    // 192.0.2.0/24 is reserved for documentation; no machine has it.
    let text = refusal(&serve(&["--dir", path(&directory), "--listen", "192.0.2.1:4420"]));
    assert!(text.contains("no interface of this machine") && !text.contains("stop it"), "{text}");
    assert!(!directory.exists());
}

#[test]
fn the_greeting_of_a_pool_without_volumes_says_how_to_make_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = ApplianceConfig::with_arguments(&["--pool-size", "256MiB", "--volume-size", "16MiB"]);
    let mut appliance = Appliance::start_in(&config, folder.path()).expect("it starts");
    assert!(appliance.said().contains("dev.varve:vol0"), "{}", appliance.said());
    appliance.command(&["volume", "delete", "vol0"]).expect("deleted");
    appliance.stop().expect("it stops cleanly");
    let again = Appliance::start_in(&ApplianceConfig::default(), folder.path()).expect("it starts");
    let said = again.said();
    assert!(!said.contains("vol0") && said.contains("volume create NAME"), "{said}");
}

#[test]
fn one_archive_is_the_same_by_its_relative_and_its_absolute_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("archive");
    let pool = folder.path().join("data");
    let here = std::env::current_dir().expect("a working directory");
    let up = "../".repeat(here.components().count() - 1);
    let relative = format!("{up}{}", path(&archive).trim_start_matches('/'));
    for place in [relative.as_str(), path(&archive), &relative] {
        let sizes = ["--pool-size", "256MiB", "--volume-size", "16MiB"];
        let config = ApplianceConfig::with_arguments(&[&sizes[..], &["--archive", place]].concat());
        let mut appliance = Appliance::start_in(&config, &pool).expect("it starts");
        appliance.command(&["archive", "seal"]).expect("archived");
        assert!(!appliance.said().contains("note:"), "{place}: {}", appliance.said());
        appliance.stop().expect("it stops cleanly");
        assert_eq!(appliance.complaints(), "", "{place}");
    }
}

#[test]
fn a_pool_that_was_moved_without_its_archive_begins_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
    let sizes = ["--pool-size", "64MiB", "--volume-size", "8MiB"];
    let mut appliance =
        Appliance::start_in(&ApplianceConfig::with_arguments(&sizes), &old).expect("it starts");
    let noise = folder.path().join("noise");
    let bytes: Vec<u8> =
        (0..8 << 20_u32).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    std::fs::write(&noise, bytes).expect("written");
    // Several segments, so that whole ones are archived.
    for _ in 0..4 {
        appliance.command(&["volume", "import", "vol0", path(&noise)]).expect("imported");
        appliance.command(&["archive", "seal"]).expect("archived");
    }
    appliance.stop().expect("it stops cleanly");
    std::fs::create_dir(&new).expect("made");
    std::fs::rename(old.join("pool.varve"), new.join("pool.varve")).expect("moved");
    let start = ["--dir", path(&new), "--listen", "127.0.0.1:0"];
    let text = refusal(&serve(&start));
    assert!(text.contains("pool.varve.id") && text.contains("--new-archive"), "{text}");
    // With everything that belongs to it, the pool starts as before.
    for name in ["pool.varve.id", "archive"] {
        let there = new.join(name);
        if there.is_dir() {
            std::fs::remove_dir_all(&there).expect("what the refused start made is removed");
        }
        std::fs::rename(old.join(name), there).expect("moved");
    }
    let again = Appliance::start_in(&ApplianceConfig::default(), &new).expect("it starts");
    assert!(!again.said().contains("another archive"), "{}", again.said());
}
