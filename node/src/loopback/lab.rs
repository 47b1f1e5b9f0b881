//! A network namespace for one test: nothing that the test does reaches the machine.
//!
//! Tests that need root run in it, or say on standard error that they were skipped, and why.

use std::io::Write as _;
use std::process::Command;
use std::{io, panic, thread};

use rustix::thread::UnshareFlags;

use super::sys;

/// Runs `test` on a thread of its own in a fresh network and mount namespace with `lo` up.
pub(crate) fn in_own_namespace(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        return skipped("a network namespace needs root");
    }
    let inside = thread::spawn(move || match sys::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS) {
        Ok(()) => {
            run("mount --make-rprivate /");
            run("ip link set lo up");
            test();
        }
        Err(error) => skipped(&format!("no network namespace can be made here: {error}")),
    });
    if let Err(failure) = inside.join() {
        panic::resume_unwind(failure);
    }
}

/// Runs an async test the same way, on a runtime that stays on that thread.
pub(crate) fn in_own_namespace_async<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    in_own_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
}

/// Runs a command line, which must succeed, and returns what it printed.
pub(crate) fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Past the capture of the test harness, so that it is seen.
fn skipped(reason: &str) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(io::stderr(), "skipped {name}: {reason}");
}
