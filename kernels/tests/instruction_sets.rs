//! Which instruction sets the other tests could not run: a machine tests the kernels of those that it has.

use assay_kernels::InstructionSet;
use testdata::Cause;

#[test]
fn sets_that_this_processor_lacks_are_named() {
    for set in InstructionSet::ALL.into_iter().filter(|set| !set.is_available()) {
        testdata::skip(Cause::NoInstructions, &format!("kernels for {}", set.name()));
    }
    assert!(InstructionSet::Portable.is_available());
}
