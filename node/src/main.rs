//! The `vpi` binary; the program is the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    vpi::main()
}
