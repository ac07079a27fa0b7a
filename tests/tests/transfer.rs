//! `varve volume import` and `varve volume export` with the real program: imported data is exported
//! unchanged, in its present state and at earlier points, and what cannot be done is refused with
//! the remedy.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::Value;
use varve_tests::appliance::rounds::{BLOCK_BYTES, connect};
use varve_tests::appliance::{Appliance, ApplianceConfig};

/// An appliance in memory, and a folder for files.
struct Bed {
    appliance: Appliance,
    folder: tempfile::TempDir,
}

impl Bed {
    fn start() -> Self {
        let config = ApplianceConfig::with_arguments(&["--memory", "256MiB", "--volume-size", "4MiB"]);
        let appliance = Appliance::start(&config).expect("it starts");
        Bed { appliance, folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A sparse file with these bytes at these offsets.
    fn file(&self, name: &str, len_bytes: u64, parts: &[(u64, &[u8])]) -> PathBuf {
        let path = self.path(name);
        let file = fs::File::create(&path).expect("made");
        file.set_len(len_bytes).expect("sparse");
        for (offset, bytes) in parts {
            file.write_all_at(bytes, *offset).expect("written");
        }
        path
    }

    fn run(&self, arguments: &[&str]) -> String {
        self.appliance.command(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    fn refused(&self, arguments: &[&str]) -> String {
        self.appliance.command(arguments).expect_err("it is refused").to_string()
    }

    fn export(&self, volume: &str, name: &str, at: Option<&str>) -> Vec<u8> {
        let path = self.path(name);
        let mut arguments = vec!["volume", "export", volume, text(&path)];
        arguments.extend(at.into_iter().flat_map(|at| ["--at", at]));
        self.run(&arguments);
        fs::read(&path).expect("it is there")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

#[test]
fn what_is_imported_is_exported_with_its_holes() {
    let bed = Bed::start();
    let noise: Vec<u8> =
        (0..300_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
    let len_bytes = (16 << 20) + 1234;
    let file = bed.file("in", len_bytes, &[(0, b"begin"), (5_000_000, &noise), (len_bytes - 3, b"end")]);
    let said = bed.run(&["volume", "import", "data", text(&file)]);
    assert!(said.contains("the new volume data"), "{said}");
    let exported = bed.export("data", "out", None);
    let mut expected = fs::read(&file).expect("the file");
    // A volume has whole blocks.
    expected.resize((len_bytes as usize).next_multiple_of(BLOCK_BYTES), 0);
    assert!(exported == expected, "it is as it was");
    let used_bytes = fs::metadata(bed.path("out")).expect("it is there").blocks() * 512;
    assert!(used_bytes < 2 << 20, "zeroes are holes: {used_bytes} bytes are used");
    let stats = bed.appliance.rpc("pool_stats", Value::Null).expect("it answers");
    let written_bytes = stats["host_written_blocks"].as_u64().expect("a count") * BLOCK_BYTES as u64;
    assert!(written_bytes < 1 << 20, "holes are not written: {written_bytes} bytes were");
    assert!(!bed.path("out.partial").exists());
}

#[test]
fn what_an_import_replaced_is_found_at_an_earlier_point() {
    let bed = Bed::start();
    let old = bed.file("old", 1 << 20, &[(0, &vec![1; 300_000]), (700_000, &vec![2; 100_000])]);
    // Where this file has a hole, the old bytes must not stay.
    let new = bed.file("new", 1 << 20, &[(500_000, &[3; 4096])]);
    bed.run(&["volume", "import", "data", text(&old)]);
    bed.run(&["synch", "create", "--label", "before"]);
    let said = bed.run(&["volume", "import", "data", text(&new), "--json"]);
    let report: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&report["made"], &report["file_bytes"]), (&Value::Bool(false), &Value::from(1 << 20)));
    assert!(bed.export("data", "now", None) == fs::read(&new).expect("the file"), "holes are cleared");
    assert!(bed.export("data", "then", Some("synch:before")) == fs::read(&old).expect("the file"));
    let lsn = format!("lsn:{}", report["lsn_before"]);
    assert!(bed.export("data", "at-lsn", Some(&lsn)) == fs::read(&old).expect("the file"));
    let volumes = bed.run(&["volume", "list"]);
    assert!(!volumes.contains("export-"), "no clone is left: {volumes}");
}

#[test]
fn what_cannot_be_transferred_is_refused_with_a_way_out() {
    let mut bed = Bed::start();
    let small = bed.file("small", 8192, &[(0, b"x")]);
    let large = bed.file("large", 8 << 20, &[]);
    let too_large = bed.refused(&["volume", "import", "vol0", text(&large)]);
    assert!(too_large.contains("volume resize vol0 8388608"), "{too_large}");
    assert!(bed.refused(&["volume", "import", "vol0", "/nonexistent"]).contains("cannot open /nonexistent"));
    let folder = bed.refused(&["volume", "import", "vol0", text(bed.folder.path())]);
    assert!(folder.contains("neither a file nor a block device"), "{folder}");
    let there = bed.refused(&["volume", "export", "vol0", text(&small)]);
    assert!(there.contains("--force") && fs::read(&small).expect("untouched")[0] == b'x', "{there}");
    let missing = bed.refused(&["volume", "export", "none", text(&bed.path("x"))]);
    assert!(missing.contains("no volume 'none'") && missing.contains("volume list"), "{missing}");
    assert!(!bed.path("x").exists() && !bed.path("x.partial").exists());
    // A volume that a host uses.
    let (controller, queue, _) = connect(&bed.appliance, "vol0");
    let in_use = bed.refused(&["volume", "import", "vol0", text(&small)]);
    assert!(in_use.contains("in use") && in_use.contains("--force"), "{in_use}");
    bed.run(&["volume", "import", "vol0", text(&small), "--force"]);
    drop((queue, controller));
    // A volume that accepts no writes.
    bed.run(&["synch", "create", "--label", "s"]);
    bed.run(&["restore", "clone", "vol0", "--at", "synch:s", "--name", "fixed", "--read-only"]);
    let read_only = bed.refused(&["volume", "import", "fixed", text(&small)]);
    assert!(read_only.contains("read-only"), "{read_only}");
    // An appliance without a listener.
    let address = format!("127.0.0.1:{}", bed.appliance.port());
    bed.run(&["nvmf", "subsystem-remove-listener", &address]);
    let nowhere = bed.refused(&["volume", "import", "vol0", text(&small)]);
    assert!(nowhere.contains("subsystem-add-listener"), "{nowhere}");
    let said = bed.run(&["nvmf", "subsystem-add-listener", "127.0.0.1:0"]);
    let port = said.trim().rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    assert!(said.starts_with("listening on 127.0.0.1:") && port > Some(0), "the port that was bound: {said}");
    bed.run(&["volume", "import", "vol0", text(&small)]);
    bed.appliance.stop().expect("it stops cleanly");
    assert_eq!(bed.appliance.complaints(), "");
}
