//! See `bz_chain`.

fn main() -> std::process::ExitCode {
    record::cli::main_plain(bz_chain::run)
}
