//! See `bz_push`.

fn main() -> std::process::ExitCode {
    record::cli::main(bz_push::run)
}
