//! What turns the kernel as it is into the kernel as it should be: ordered steps.

use super::{state::KernelState, step::Step};

/// The steps from `actual` to `desired`.
pub fn diff(desired: &KernelState, actual: &KernelState) -> Vec<Step> {
    let _ = (desired, actual);
    Vec::new()
}
