//! See `bz_eval`.

fn main() -> std::process::ExitCode {
    record::cli::main(bz_eval::run)
}
