//! See `bz_state`.

fn main() -> std::process::ExitCode {
    record::cli::main(bz_state::run)
}
