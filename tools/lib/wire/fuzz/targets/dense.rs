#![no_main]
libfuzzer_sys::fuzz_target!(init: wire_fuzz::begin("dense"), |data: &[u8]| {
    wire_fuzz::decode("dense", data);
});
