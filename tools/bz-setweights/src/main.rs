//! See `bz_setweights`.

fn main() -> std::process::ExitCode {
    record::cli::main(bz_setweights::run)
}
