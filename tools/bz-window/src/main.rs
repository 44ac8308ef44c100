//! See `bz_window`.

fn main() -> std::process::ExitCode {
    record::cli::main(bz_window::run)
}
