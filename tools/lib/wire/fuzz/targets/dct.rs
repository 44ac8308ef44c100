#![no_main]
libfuzzer_sys::fuzz_target!(init: wire_fuzz::begin("dct"), |data: &[u8]| {
    wire_fuzz::decode("dct", data);
});
