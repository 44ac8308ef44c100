//! See `bz_localnet`.
#![recursion_limit = "512"]

fn main() -> std::process::ExitCode {
    record::cli::main_plain(bz_localnet::run)
}
