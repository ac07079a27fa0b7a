//! Writes the fixture of the format version that this build writes:
//! `cargo run -p varve-tests --bin make_fixture`. A fixture is committed once for each version and
//! never made again.

use std::path::Path;

use varve_tests::sim::fixture;

fn main() -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(format!("v{}", varve::log::format::FORMAT_VERSION));
    std::fs::create_dir_all(&directory)?;
    let (disk, expected) = fixture::make();
    let image = fixture::pack(&disk);
    println!("{} bytes, {} volumes, {} points", image.len(), expected.volumes.len(), expected.points.len());
    std::fs::write(directory.join("pool.sparse"), image)?;
    std::fs::write(directory.join("expected.json"), serde_json::to_vec_pretty(&expected)?)
}
