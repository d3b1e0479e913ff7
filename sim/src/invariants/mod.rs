//! What must hold, whatever goes wrong: one file each. A sentence says what does not.

mod agreement;
mod convergence;
mod history;
mod leaders;
mod places;
mod states;

pub use agreement::Agreement;
pub use convergence::converged;
pub use history::linearizable;
pub use leaders::Leaders;
pub use places::given_twice;
pub use states::went_back;
