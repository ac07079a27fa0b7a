//! What goes wrong at a start is one clear line, an exit code that is not 0, and no harm.

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
