//! What clients were told could have happened one by one, each thing between its call and its answer.

use crate::{
    client::{Answer, Event, Op},
    world::REGISTERS,
};
use std::collections::BTreeSet;
use todc_utils::{
    linearizability::{
        WGLChecker,
        history::{Action, History},
    },
    specifications::Specification,
};

struct Register;

impl Specification for Register {
    type State = u64;
    type Operation = Op;

    fn init() -> u64 {
        0
    }

    fn apply(op: &Op, state: &u64) -> (bool, u64) {
        match op {
            Op::Write(value) => (true, *value),
            Op::Read(found) => (*found == Some(*state), *state),
        }
    }
}

/// The actions of one register in order; what nobody knows the end of may take effect at any time after its call.
fn actions(events: &[Event], register: usize) -> Vec<(usize, Action<Op>)> {
    let mine = || events.iter().enumerate().filter(|(_, e)| e.register == register);
    let read: BTreeSet<Op> = mine().filter(|(_, e)| e.answer != Answer::Unknown).map(|(_, e)| e.op).collect();
    // A write that may come at any time and that nobody saw is explained by coming last: without it the search is short.
    let unseen = |value| !read.contains(&Op::Read(Some(value)));
    let mut timed = Vec::new();
    for (process, event) in mine() {
        let (call, answer) = match (event.op, event.answer) {
            (_, Answer::Never) | (Op::Read(_), Answer::Unknown) => continue,
            (Op::Write(value), Answer::Unknown) if unseen(value) => continue,
            (Op::Read(_), Answer::At(at)) => (Op::Read(None), at),
            (write, Answer::At(at)) => (write, at),
            (write, Answer::Unknown) => (write, u64::MAX),
        };
        timed.push((event.call, process, Action::Call(call)));
        timed.push((answer, process, Action::Response(event.op)));
    }
    timed.sort_by_key(|(at, process, _)| (*at, *process));
    timed.into_iter().map(|(_, process, action)| (process, action)).collect()
}

pub fn linearizable(events: &[Event]) -> Result<(), String> {
    for register in 0..REGISTERS {
        let actions = actions(events, register);
        if !actions.is_empty() && !WGLChecker::<Register>::is_linearizable(History::from_actions(actions.clone())) {
            let history: Vec<String> = actions.iter().map(|(p, a)| format!("  {p} {a:?}")).collect();
            return Err(format!("register {register} has no history that explains:\n{}", history.join("\n")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(call: u64, answer: Answer, op: Op) -> Event {
        Event { register: 0, call, answer, op }
    }

    #[test]
    fn a_lost_write_and_a_stale_read_are_found() {
        let written = event(1, Answer::At(2), Op::Write(7));
        let reads = |found, call| event(call, Answer::At(call + 1), Op::Read(Some(found)));
        assert_eq!(linearizable(&[written.clone(), reads(7, 3)]), Ok(()));
        assert!(linearizable(&[written.clone(), reads(0, 3)]).is_err());
        let unknown = event(3, Answer::Unknown, Op::Write(8));
        assert_eq!(linearizable(&[written.clone(), unknown.clone(), reads(7, 4), reads(8, 6), reads(8, 8)]), Ok(()));
        assert!(linearizable(&[written, unknown, reads(8, 4), reads(7, 6)]).is_err());
    }
}
