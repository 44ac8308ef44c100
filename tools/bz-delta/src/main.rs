//! See `bz_delta`.

fn main() -> std::process::ExitCode {
    record::cli::main(bz_delta::run)
}
