//! See `bz_pull`.

fn main() -> std::process::ExitCode {
    record::cli::main(bz_pull::run)
}
