//! What the fuzzers keep (`make fuzz`), decoded once more: no panic, and nothing that is not finite.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../fuzz/src/lib.rs"]
mod inputs;

#[test]
fn nothing_that_a_fuzzer_kept_breaks_a_decoder() {
    for target in inputs::TARGETS {
        assert!(
            inputs::seeds(target).iter().all(|seed| inputs::decode(target, seed)),
            "{target}: what is honest is refused"
        );
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let inputs: Vec<_> =
            corpus.read_dir().unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        let good = inputs.iter().filter(|input| inputs::decode(target, input)).count();
        assert!(inputs.len() > good, "{target}: {good} of {} are good", inputs.len());
    }
}
