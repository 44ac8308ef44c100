#![no_main]
libfuzzer_sys::fuzz_target!(init: wire_fuzz::begin("topk"), |data: &[u8]| {
    wire_fuzz::decode("topk", data);
});
