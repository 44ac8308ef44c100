//! What the fuzzers keep (`make fuzz`), decoded once more: no panic, and nothing that is not finite.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../fuzz/src/lib.rs"]
mod inputs;

/// Whether the inputs of a fuzzer are files; else they are the bits of a group.
fn files(target: &str) -> bool {
    !matches!(target, "topk" | "dct")
}

#[test]
fn nothing_that_a_fuzzer_kept_breaks_a_decoder() {
    for target in inputs::TARGETS {
        let seeds = inputs::seeds(target);
        assert!(seeds.iter().all(|seed| inputs::decode(target, seed)), "{target}: what is honest is refused");
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        for file in corpus.read_dir().unwrap() {
            let path = file.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            // Where nothing is signed anew (an even first byte) no file is good but an honest one, to the byte.
            if inputs::decode(target, &input) && files(target) && input[0] % 2 == 0 {
                assert!(seeds.iter().any(|seed| seed[1..] == input[1..]), "{} is believed", path.display());
            }
        }
    }
}

#[test]
fn what_is_honest_has_no_second_form() {
    for target in inputs::TARGETS {
        let whole = inputs::seeds(target).into_iter().filter(|seed| !files(target) || seed[0] % 2 == 0);
        for seed in whole {
            assert!(inputs::decode(target, &seed), "{target}");
            assert!(!inputs::decode(target, &seed[..seed.len() - 1]), "{target}: a byte short");
            assert!(!inputs::decode(target, &[&seed[..], &[0]].concat()), "{target}: a byte long");
            if !files(target) {
                continue;
            }
            // The first byte says which codec it is, the next eight are the header's length.
            let header = 9 + u64::from_le_bytes(seed[1..9].try_into().unwrap()) as usize;
            let mut other = seed.clone();
            for at in 1..header {
                // The lowest bit, and the one between upper and lower case.
                for bit in [1, 32] {
                    other[at] ^= bit;
                    assert!(!inputs::decode(target, &other), "{target}: bit {bit} of byte {at} of the header");
                    other[at] ^= bit;
                }
            }
        }
    }
}
