//! The first process of a test's virtual machine.

fn main() -> ! {
    heddle_cluster_tests::vm::guest::main()
}
