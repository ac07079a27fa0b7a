//! Tests of the objects that must be readable whichever cartridge is away.

use super::*;

const OWNER: &str = "v1/pool/owner/1";

/// Objects on at least three cartridges; the first cartridge has the object that is kept at hand.
fn rig() -> Rig {
    let rig = Rig::new(5, 300_000, 32 << 10, 2 << 20);
    let store = rig.open();
    put(&store, "v1/pool/owner/0", b"before").unwrap();
    put(&store, OWNER, b"somebody").unwrap();
    store.keep_at_hand(&name(OWNER), b"somebody").unwrap();
    assert_eq!(store.cartridges_of(&name(OWNER)).unwrap(), ["VV0000"]);
    for index in 0..5_u8 {
        put(&store, &format!("o{index}"), &vec![index; 130_000]).unwrap();
    }
    assert!(store.cartridges_of(&name("o4")).unwrap().contains(&"VV0002".to_owned()));
    rig
}

fn take_out(rig: Rig, index: usize) -> Rig {
    fs::rename(rig.path(index), rig.root.path().join(format!("away-{index}"))).unwrap();
    Rig { cartridges: 0, ..rig }
}

#[test]
fn it_is_read_whichever_cartridge_is_away() {
    for away in 0..4 {
        let rig = take_out(rig(), away);
        assert_eq!(get(&rig.open(), OWNER).unwrap(), b"somebody");
        // Also without the files next to the cartridges: each cartridge has its own copy.
        for entry in fs::read_dir(rig.root.path().join("library")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none() {
                fs::remove_file(path).unwrap();
            }
        }
        let store = rig.open();
        assert_eq!(get(&store, OWNER).unwrap(), b"somebody", "without cartridge {away}");
        assert_eq!(
            store.list("v1/pool/owner/", None, 9).unwrap().objects.len(),
            if away == 0 { 1 } else { 2 }
        );
    }
}

#[test]
fn it_is_repeated_once_on_each_cartridge_also_after_a_restart() {
    let rig = rig();
    let copies = |rig: &Rig, index: usize| {
        let bytes = fs::read(rig.path(index)).unwrap();
        bytes.windows(8).filter(|window| *window == b"somebody").count()
    };
    let used: Vec<usize> = (0..5).map(|index| copies(&rig, index)).collect();
    assert!(used.iter().filter(|&&copies| copies == 1).count() >= 3, "{used:?}");
    assert!(used.iter().all(|&copies| copies <= 1), "{used:?}");
    // No copy is written while the cartridge stays the same.
    put(&rig.open(), "small", b"x").unwrap();
    assert_eq!((0..5).map(|index| copies(&rig, index)).collect::<Vec<_>>(), used);
}

#[test]
fn a_copy_that_is_not_what_the_tape_was_given_is_not_believed() {
    let rig = Rig::new(1, 1 << 20, 1024, 1 << 20);
    let store = rig.open();
    put(&store, OWNER, b"somebody").unwrap();
    store.keep_at_hand(&name(OWNER), b"somebody else").unwrap();
    drop(store);
    assert_eq!(get(&rig.open(), OWNER).unwrap(), b"somebody");
}
