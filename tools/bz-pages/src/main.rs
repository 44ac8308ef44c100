//! See `bz_pages`.

fn main() -> std::process::ExitCode {
    record::cli::main(bz_pages::run)
}
