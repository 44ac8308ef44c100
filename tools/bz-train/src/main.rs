//! See `bz_train`.

fn main() -> std::process::ExitCode {
    record::cli::main(bz_train::run)
}
