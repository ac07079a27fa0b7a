//! `varve diff --export` and `--apply`, and `varve block`, with the real program: a series of
//! increments makes another appliance's volume what the first one's was at each point; what does
//! not fit is refused before anything is written; what was interrupted goes on.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use varve_tests::appliance::rounds::BLOCK_BYTES;
use varve_tests::appliance::{Appliance, ApplianceConfig};

const VOLUME_BLOCKS: usize = 1024;
const QUARTER_BYTES: usize = VOLUME_BLOCKS / 4 * BLOCK_BYTES;

struct Bed {
    source: Appliance,
    copy: Appliance,
    folder: tempfile::TempDir,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

impl Bed {
    fn start() -> Self {
        Bed::start_copy_on("--memory")
    }

    /// The appliance that takes increments has its pool in memory, or with `--pool-size` in a file.
    fn start_copy_on(option: &str) -> Self {
        let start = |option: &str| {
            let config = ApplianceConfig::with_arguments(&[option, "256MiB", "--volume-size", "4MiB"]);
            Appliance::start(&config).expect("it starts")
        };
        let (source, copy) = (start("--memory"), start(option));
        Bed { source, copy, folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a volume what an image is.
    fn import(&self, image: &[u8]) {
        let path = self.path("image");
        fs::write(&path, image).expect("written");
        self.source.run(&["volume", "import", "data", text(&path)]);
    }

    fn contents(&self, appliance: &Appliance, volume: &str, at: Option<&str>) -> Vec<u8> {
        let path = self.path("contents");
        let mut arguments = vec!["volume", "export", volume, text(&path), "--force"];
        arguments.extend(at.into_iter().flat_map(|at| ["--at", at]));
        appliance.run(&arguments);
        fs::read(&path).expect("it is there")
    }
}

/// An image: blocks with pseudo-random contents, and blocks of zeroes.
fn image(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; VOLUME_BLOCKS * BLOCK_BYTES];
    for (at, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
        let word = (at as u64 + 1).wrapping_mul(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if !word.is_multiple_of(3) {
            block.copy_from_slice(&word.to_le_bytes().repeat(BLOCK_BYTES / 8));
        }
    }
    bytes
}

/// An image whose first quarter is another one's.
fn changed(from: &[u8], seed: u64) -> Vec<u8> {
    let mut bytes = from.to_vec();
    bytes[..QUARTER_BYTES].copy_from_slice(&image(seed)[..QUARTER_BYTES]);
    bytes
}

#[test]
fn a_series_of_increments_carries_a_volume_to_another_appliance() {
    let bed = Bed::start();
    let first = image(1);
    let second = changed(&first, 2);
    bed.import(&first);
    bed.source.run(&["synch", "create", "--label", "one"]);
    // An import leaves what is behind the end of its file.
    bed.import(&second[..QUARTER_BYTES]);
    bed.source.run(&["synch", "create", "--label", "two"]);
    let (full, next) = (bed.path("full.inc"), bed.path("next.inc"));
    bed.source.run(&["diff", "data", "nothing", "synch:one", "--export", text(&full)]);
    bed.source.run(&["diff", "data", "synch:two", "--after", text(&full), "--export", text(&next)]);
    assert!(fs::metadata(&next).expect("made").len() < fs::metadata(&full).expect("made").len() / 2);
    let again = bed.source.refused(&["diff", "data", "nothing", "--export", text(&full)]);
    assert!(again.contains("--force"), "{again}");

    let size = (VOLUME_BLOCKS * BLOCK_BYTES).to_string();
    bed.copy.run(&["volume", "create", "replica", &size]);
    bed.copy.run(&["volume", "create", "small", "4096"]);
    let early = bed.copy.refused(&["diff", "replica", "--apply", text(&next)]);
    assert!(early.contains("has not got the increment before"), "{early}");
    bed.copy.run(&["diff", "replica", "--apply", text(&full)]);
    assert!(bed.contents(&bed.copy, "replica", None) == first);
    let known = bed.copy.run(&["diff", "replica", "--apply", text(&full)]);
    assert!(known.contains("already"), "{known}");
    bed.copy.run(&["diff", "replica", "--apply", text(&next)]);
    assert!(bed.contents(&bed.copy, "replica", None) == second);
    // A smaller volume grows.
    bed.copy.run(&["diff", "small", "--apply", text(&full)]);
    assert!(bed.contents(&bed.copy, "small", None) == first);
    // The first state is a point of the copy.
    let synchs = bed.copy.rpc("synch_list", json!({})).expect("synchs");
    let of_first = synchs.as_array().expect("a list").iter().find(|synch| synch["label"] == "increment");
    let at = format!("synch:{}", of_first.expect("the first")["id"]);
    assert!(bed.contents(&bed.copy, "replica", Some(&at)) == first);
}

#[test]
fn an_increment_that_does_not_fit_changes_nothing() {
    let bed = Bed::start();
    let first = image(3);
    bed.import(&first);
    bed.source.run(&["synch", "create", "--label", "one"]);
    let full = bed.path("full.inc");
    bed.source.run(&["diff", "data", "nothing", "--export", text(&full)]);
    let size = (VOLUME_BLOCKS * BLOCK_BYTES).to_string();
    bed.copy.run(&["volume", "create", "replica", &size]);
    let head = |appliance: &Appliance| {
        appliance.rpc("pool_stats", Value::Null).expect("it answers")["newest_point_lsn"].clone()
    };
    let before = head(&bed.copy);
    // A file that is damaged anywhere is refused as a whole.
    let bytes = fs::read(&full).expect("the file");
    let damaged = bed.path("damaged.inc");
    for at in [0, 100, bytes.len() / 2, bytes.len() - 1] {
        let mut copy = bytes.clone();
        copy[at] ^= 1;
        fs::write(&damaged, &copy).expect("written");
        bed.copy.refused(&["diff", "replica", "--apply", text(&damaged)]);
    }
    fs::write(&damaged, &bytes[..bytes.len() - 200]).expect("written");
    let cut = bed.copy.refused(&["diff", "replica", "--apply", text(&damaged)]);
    assert!(cut.contains("not written or copied to its end"), "{cut}");
    assert_eq!(head(&bed.copy), before);
    // A volume that is not as the first point was.
    let other = bed.path("other");
    fs::write(&other, vec![1; BLOCK_BYTES]).expect("written");
    bed.copy.run(&["volume", "import", "replica", text(&other)]);
    let before = head(&bed.copy);
    let differs = bed.copy.refused(&["diff", "replica", "--apply", text(&full)]);
    assert!(differs.contains("it is not empty") && differs.contains("--force"), "{differs}");
    assert_eq!(head(&bed.copy), before);
    // In the pool that it comes from, states are compared: backward from the present.
    bed.import(&changed(&first, 4));
    let back = bed.path("back.inc");
    let newest = format!("lsn:{}", head(&bed.source));
    bed.source.run(&["diff", "data", &newest, "synch:one", "--export", text(&back)]);
    bed.source.run(&["restore", "clone", "data", "--at", &newest, "--name", "fork"]);
    bed.source.run(&["restore", "clone", "data", "--at", "synch:one", "--name", "old"]);
    let differs = bed.source.refused(&["diff", "old", "--apply", text(&back)]);
    assert!(differs.contains("blocks differ"), "{differs}");
    bed.source.run(&["diff", "fork", "--apply", text(&back)]);
    assert!(bed.contents(&bed.source, "fork", None) == first);
}

#[test]
fn an_apply_that_was_interrupted_goes_on() {
    let bed = Bed::start();
    let first = image(5);
    bed.import(&first);
    let full = bed.path("full.inc");
    let report = bed.source.run(&["--json", "diff", "data", "nothing", "--export", text(&full)]);
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let size = (VOLUME_BLOCKS * BLOCK_BYTES).to_string();
    bed.copy.run(&["volume", "create", "replica", &size]);
    let volumes = bed.copy.rpc("volume_list", json!({"name": "replica"})).expect("a list");
    // As after a kill: the first synch is there, and a part of the blocks.
    let details = json!({"digest": report["digest"], "volume": volumes[0]["uuid"]});
    bed.copy.rpc("synch_create", json!({"label": "increment-begin", "details": details})).expect("a synch");
    let part = bed.path("part");
    fs::write(&part, &first[..100 * BLOCK_BYTES]).expect("written");
    bed.copy.run(&["volume", "import", "replica", text(&part)]);
    let fork = ["restore", "clone", "replica", "--at", "synch:increment-begin", "--name", "before"];
    bed.copy.run(&fork);
    bed.copy.run(&["diff", "replica", "--apply", text(&full)]);
    assert!(bed.contents(&bed.copy, "replica", None) == first);
    assert!(bed.contents(&bed.copy, "before", None).iter().all(|byte| *byte == 0));
}

/// The appliance dies at any moment of an apply: the first synch is the state before, and the same
/// command does the rest.
#[test]
fn an_apply_goes_on_after_a_crash() {
    let mut bed = Bed::start_copy_on("--pool-size");
    let first = image(9);
    bed.import(&first);
    let full = bed.path("full.inc");
    bed.source.run(&["diff", "data", "nothing", "--export", text(&full)]);
    let size = (VOLUME_BLOCKS * BLOCK_BYTES).to_string();
    let mut cut = 0;
    for round in 0..8 {
        let name = format!("replica-{round}");
        bed.copy.run(&["volume", "create", &name, &size]);
        let begun = |copy: &Appliance| {
            let synchs = copy.rpc("synch_list", json!({"label": "increment-begin"})).expect("a list");
            synchs.as_array().expect("a list").len()
        };
        let before = begun(&bed.copy);
        let apply = ["diff", name.as_str(), "--apply", text(&full)];
        let mut apply = bed.copy.begin_command(&apply).expect("it starts");
        // From its first synch on, after a few more looks.
        while begun(&bed.copy) == before && apply.try_wait().expect("it runs").is_none() {}
        for _ in 0..round {
            begun(&bed.copy);
        }
        bed.copy.kill_9();
        let ended = apply.wait().expect("it ends");
        cut += u64::from(!ended.success());
        bed.copy.restart().expect("it starts again");
        // A synch that was not stable is gone, and the volume is empty then.
        if begun(&bed.copy) > before {
            let fork = format!("before-{round}");
            bed.copy.run(&["restore", "clone", &name, "--at", "synch:increment-begin", "--name", &fork]);
            assert!(bed.contents(&bed.copy, &fork, None).iter().all(|byte| *byte == 0), "{name}");
        }
        bed.copy.run(&["diff", &name, "--apply", text(&full)]);
        assert!(bed.contents(&bed.copy, &name, None) == first, "{name}");
        let known = bed.copy.run(&["diff", &name, "--apply", text(&full)]);
        assert!(known.contains("already"), "{known}");
    }
    println!("{cut} of 8 applies were cut");
    assert!(cut > 0);
}

#[test]
fn blocks_are_looked_up_and_restored() {
    let bed = Bed::start();
    let first = image(7);
    bed.import(&first);
    bed.source.run(&["synch", "create", "--label", "good"]);
    // Somebody scribbles on three blocks, and copies the rest again.
    let mut bad = first.clone();
    bad[40 * BLOCK_BYTES..43 * BLOCK_BYTES].fill(0xee);
    bed.import(&bad);
    let history = bed.source.run(&["block", "history", "data", "--block", "41"]);
    assert!(history.contains("write") && history.contains("primary"), "{history}");
    let who = bed.source.run(&["block", "who", "data", "--block", "41", "--at", "synch:good"]);
    assert!(who.contains("Since"), "{who}");
    let listed = bed.source.run(&["diff", "data", "synch:good", "--format", "blocks"]);
    // Each import writes every block that is not zero again.
    assert!(listed.lines().count() > 10, "{listed}");
    let said = bed.source.run(&["block", "restore", "data", "--range", "40..43", "--at", "synch:good"]);
    assert!(said.contains("3 of 3 blocks differed"), "{said}");
    assert!(bed.contents(&bed.source, "data", None) == first);
    let never = bed.source.refused(&["block", "restore", "data", "--block", "40", "--at", "lsn:0"]);
    assert!(never.contains("did not exist"), "{never}");
}

#[test]
fn a_difference_is_shown_in_every_form() {
    let bed = Bed::start();
    bed.source.run(&["volume", "create", "data", "1MiB"]);
    let path = bed.path("one");
    let file = fs::File::create(&path).expect("made");
    file.set_len(1 << 20).expect("sparse");
    file.write_all_at(&[1; 2 * BLOCK_BYTES], 8 * BLOCK_BYTES as u64).expect("written");
    bed.source.run(&["synch", "create", "--label", "empty"]);
    bed.source.run(&["volume", "import", "data", text(&path)]);
    let table = bed.source.run(&["diff", "data", "synch:empty"]);
    assert!(table.contains("8..10") && table.contains("written"), "{table}");
    let blocks = bed.source.run(&["diff", "data", "synch:empty", "--format", "blocks"]);
    assert_eq!(blocks, "32768 8192 data\n");
    let listed = bed.source.run(&["diff", "data", "synch:empty", "--format", "json"]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed["ranges"], json!([{"block": 8, "blocks": 2, "kind": "written"}]));
    assert_eq!((&listed["written_blocks"], &listed["next_block"]), (&json!(2), &Value::Null));
}
