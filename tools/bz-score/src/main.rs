//! See `bz_score`.

fn main() -> std::process::ExitCode {
    record::cli::main(bz_score::run)
}
