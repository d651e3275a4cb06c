//! argv → verb → exit code.

fn main() -> std::process::ExitCode {
    ringway::cli::main()
}
