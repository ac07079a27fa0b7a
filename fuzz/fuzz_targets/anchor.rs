#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| varve::fuzzing::run("anchor", data));
