//! See `bz_chain`.

fn main() -> std::process::ExitCode {
    record::cli::main(bz_chain::run)
}
