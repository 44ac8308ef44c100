#![no_main]
libfuzzer_sys::fuzz_target!(init: wire_fuzz::begin("slice"), |data: &[u8]| {
    wire_fuzz::decode("slice", data);
});
