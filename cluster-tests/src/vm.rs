//! A test in a machine of its own, on Debian's kernel, for what this machine's kernel lacks.
//!
//! ```no_run
//! mod emulated {
//!     # use heddle_cluster_tests::vm;
//!     #[test]
//!     fn links() {
//!         if vm::skipped() || vm::ran_inside("links", &["ipvlan"], &["ip"]) {
//!             return;
//!         }
//!         // Here is a kernel with ipvlan, and nobody else's links.
//!     }
//! }
//! ```
//!
//! The guest's clock counts its instructions: how busy this machine is, it cannot know. So `scripts/test` runs those tests side by
//! side, which it knows by the name of their module.
//!
//! Hosts that are such machines are made by [`Lab::vm`](crate::Lab::vm).

pub use heddle_vm::{Clock, DATA_PLANE, Ended, IPVS, PROGRAM, TOOLS, Vm, host::PROGRAMS, programs};

use crate::program;
use heddle_vm::Cache;
use std::path::PathBuf;

/// The module of all such tests.
const MODULE: &str = "emulated";
/// Set inside the machine.
const INSIDE: &str = "HEDDLE_IN_VM";

/// True: the test should end, since it cannot be run here. With `REQUIRE` set, that is a failure.
pub fn skipped() -> bool {
    if inside() {
        return false;
    }
    let Err(missing) = programs::check(&PROGRAMS) else { return crate::skipped() };
    assert!(std::env::var_os("REQUIRE").is_none(), "REQUIRE is set: {missing}");
    println!("SKIPPED: {missing}");
    true
}

/// Whether this process runs in such a machine.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// `target/vm`, found from where cargo put the test: `target/PROFILE/deps/TEST`.
pub fn cache_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    test.ancestors().nth(3).expect("tests live below the target directory").join("vm")
}

/// A machine that runs one program, which is still to be named.
pub fn machine(name: &str) -> Vm {
    let cache = Cache::at(cache_dir()).expect("the target directory can be written to");
    Vm::new(cache, program(), name)
}

/// A machine whose program is this one again, with the program under test where it looks for it.
pub fn of_this_program(name: &str, args: &[&str]) -> Vm {
    let own = std::env::current_exe().expect("a test knows its own path");
    machine(name)
        .binary(own, "/target/debug/deps/test")
        .link("/target/debug/heddle", PROGRAM)
        .command(&[&["/target/debug/deps/test"], args].concat())
        .env(INSIDE, "1")
        .env("REQUIRE", "1")
        .env("RUST_BACKTRACE", "0")
}

/// A machine whose program is this test alone.
pub fn of_this_test(test: &str) -> Vm {
    // Whoever asked for it outside may have asked for one that is ignored otherwise.
    let path = format!("{MODULE}::{test}");
    of_this_program(test, &["--exact", &path, "--include-ignored", "--nocapture", "--test-threads=1"])
}

/// Called first in the test of this name. Outside: boots a machine with these modules and tools, has the test run in
/// it, fails as it fails, and is true: the test is over. Inside: false.
pub fn ran_inside(test: &str, modules: &[&str], tools: &[&str]) -> bool {
    ran_in(test, |vm| vm.modules(modules).tools(tools))
}

/// The same with a machine that is changed first: its memory, its deadline, more files.
pub fn ran_in(test: &str, change: impl FnOnce(Vm) -> Vm) -> bool {
    if inside() {
        return false;
    }
    let output = change(of_this_test(test)).run().unwrap_or_else(|e| panic!("{e:#}"));
    println!("{}{}", output.stdout, output.stderr);
    println!(
        "{test}: kernel {}, booted in {:.1?}, {:.1?} in all, initramfs of {} MB",
        output.release,
        output.booted,
        output.took,
        output.initramfs_bytes / 1_000_000
    );
    assert_eq!(output.ended, Ended::Exit(0), "{test} failed in the machine");
    // A name that no test has would pass as well.
    assert!(output.stdout.contains("test result: ok. 1 passed"), "no test is called {MODULE}::{test}");
    true
}
