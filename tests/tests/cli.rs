//! Golden files: the help of every tool, usage errors, and each exit code that needs no network.
//!
//! After a change that is meant: `TRYCMD=overwrite cargo test -p tests --test cli`.
#![allow(clippy::unwrap_used, clippy::panic)]

#[test]
fn golden_files() {
    let cases = trycmd::TestCases::new();
    let bin = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_path_buf();
    for tool in [
        "chain",
        "delta",
        "eval",
        "localnet",
        "pages",
        "pull",
        "push",
        "score",
        "setweights",
        "state",
        "train",
        "window",
    ] {
        let name = format!("bz-{tool}");
        let path = bin.join(&name);
        assert!(path.exists(), "{} is not built: run make test", path.display());
        cases.register_bin(name, path);
    }
    cases.env("BZ_HOME", "none").env("HOME", "none").case("cmd/*.trycmd");
}
