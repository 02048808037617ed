//! Runs `oci_pull_through::fuzz::image_list` on arbitrary bytes. Usage:
//! `cargo +nightly fuzz run image_list`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::image_list(input));
