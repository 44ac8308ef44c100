#![no_main]
libfuzzer_sys::fuzz_target!(init: wire_fuzz::begin("choice"), |data: &[u8]| {
    wire_fuzz::decode("choice", data);
});
