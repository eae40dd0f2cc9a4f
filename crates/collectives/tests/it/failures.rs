//! No operation hangs: every rank learns who is to blame.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nxd_collectives::{CollectiveError, Operation, ProcessGroup, ThreadGroup};

use crate::{run, run_well};

/// Keeps a rank alive, so that it is late and not gone, until the others are done.
fn hold_until(done: &AtomicBool) {
    let start = Instant::now();
    while !done.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(60) {
        std::thread::yield_now();
    }
}

type Call = fn(&ProcessGroup) -> Result<(), CollectiveError>;

/// One call of every operation for a group of three, all of which rank 2 has to answer.
const CALLS: [Call; 8] = [
    |group| group.all_reduce_sum(&mut [0.0; 5]),
    |group| group.reduce_scatter_sum(&[0.0; 6], &mut [0.0; 2]),
    |group| group.all_gather(&[0u8; 2], &mut [0; 6]),
    |group| group.all_to_all(&[0u8; 3], &mut [0; 3]),
    |group| group.broadcast(&mut [0u8; 4], 2),
    |group| group.recv(&mut [0u8; 4], 2),
    |group| (0..3).try_for_each(|_| group.send(&[0u8; 4], 2)),
    |group| group.barrier(),
];

#[test]
fn a_missing_rank_is_named_when_the_deadline_passes() {
    for call in CALLS {
        let done = AtomicBool::new(false);
        let errors = run(3, Duration::from_millis(50), |group| match group.rank() {
            2 => {
                hold_until(&done);
                group.barrier()
            }
            0 => {
                let result = call(group);
                done.store(true, Ordering::Relaxed);
                result
            }
            // Here only rank 0 calls, so that it is rank 0 that gives up.
            _ => {
                hold_until(&done);
                group.barrier()
            }
        });
        let first = errors[0].clone().unwrap_err();
        let CollectiveError::TimedOut { operation, rank: 0, waited, missing } = &first else { panic!("{first}") };
        assert_eq!(*waited, Duration::from_millis(50));
        assert!(missing.contains(&2), "{first}");
        assert!(first.to_string().starts_with(&format!("rank 0: {operation} gave up after 50ms: rank")), "{first}");
        for error in &errors[1..] {
            let Err(CollectiveError::Aborted { by: 0, reason, .. }) = error else { panic!("{error:?}") };
            assert_eq!(*reason, first.to_string());
        }
    }
}

#[test]
fn only_the_ranks_that_did_not_come_are_named() {
    let done = AtomicBool::new(false);
    let errors = run(4, Duration::from_secs(1), |group| {
        if group.rank() == 3 {
            hold_until(&done);
            return Ok(());
        }
        let result = group.all_reduce_sum(&mut [1.0]);
        done.store(true, Ordering::Relaxed);
        result
    });
    // One of them gives up first; the others report the same moment or what it said.
    assert!(errors[..3].iter().any(|error| matches!(
        error,
        Err(CollectiveError::TimedOut { operation: Operation::AllReduceSum, missing, .. }) if *missing == [3]
    )));
    for error in &errors[..3] {
        let text = error.clone().unwrap_err().to_string();
        assert!(text.contains("`all_reduce_sum` gave up after 1s: rank 3 did not arrive"), "{text}");
    }
}

#[test]
fn a_rank_that_ends_fails_the_others_at_once() {
    for call in CALLS {
        let start = Instant::now();
        let errors = run_well(3, |group| if group.rank() == 2 { Ok(()) } else { call(group) });
        for (rank, error) in errors[..2].iter().enumerate() {
            let error = error.clone().unwrap_err();
            assert!(matches!(&error, CollectiveError::Aborted { by: 2, .. }), "{error}");
            let text = error.to_string();
            assert!(text.starts_with(&format!("rank {rank}: `")), "{text}");
            assert!(text.ends_with("cannot complete, rank 2 ended the group: it dropped its handle"), "{text}");
        }
        assert!(start.elapsed() < Duration::from_secs(50));
    }
}

#[test]
fn a_rank_that_panics_is_named() {
    let mut groups = ThreadGroup::new(2, Duration::from_secs(60));
    let (lost, kept) = (groups.pop().unwrap(), groups.pop().unwrap());
    let thread = std::thread::spawn(move || {
        lost.barrier().unwrap();
        panic!("as this test wants");
    });
    kept.barrier().unwrap();
    let error = kept.all_reduce_sum(&mut [1.0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rank 0: `all_reduce_sum` cannot complete, rank 1 ended the group: its thread panicked"
    );
    assert!(thread.join().is_err());
}

#[test]
fn an_abort_reaches_ranks_that_wait_and_the_group_stays_aborted() {
    let errors = run_well(3, |group| {
        if group.rank() == 1 {
            group.abort("the model file was truncated");
        }
        let first = group.barrier().unwrap_err();
        assert_eq!(CALLS.map(|call| call(group).is_ok()), [false; 8]);
        first
    });
    for (rank, error) in errors.into_iter().enumerate() {
        let expected = CollectiveError::Aborted {
            operation: Operation::Barrier,
            rank,
            by: 1,
            reason: "the model file was truncated".into(),
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn different_lengths_are_told_to_every_rank() {
    let errors = run_well(3, |group| group.all_reduce_sum(&mut [0.0; 4][..4 - group.rank() / 2]));
    for error in errors {
        let error = error.unwrap_err();
        assert!(matches!(&error, CollectiveError::LengthMismatch { operation: Operation::AllReduceSum, .. }));
        assert_eq!(
            error.to_string(),
            "`all_reduce_sum` needs the same length on every rank, found \
             rank 0: 16 bytes, rank 1: 16 bytes, rank 2: 12 bytes"
        );
    }
}

#[test]
fn a_message_of_another_length_names_both_ends() {
    let errors = run_well(2, |group| match group.rank() {
        0 => group.send(&[1.0f32; 3], 1).and_then(|()| group.barrier()),
        _ => group.recv(&mut [0.0f32; 2], 0),
    });
    assert!(matches!(&errors[0], Err(CollectiveError::Aborted { by: 1, .. })), "{:?}", errors[0]);
    assert_eq!(
        errors[1].clone().unwrap_err().to_string(),
        "`recv` from rank 0 needs the same length on every rank, found rank 0: 12 bytes, rank 1: 8 bytes"
    );
}

#[test]
fn different_operations_are_told_to_every_rank() {
    let errors = run_well(3, |group| match group.rank() {
        0 => group.barrier(),
        rank => group.broadcast(&mut [0u8; 0], rank),
    });
    for error in errors {
        assert_eq!(
            error.unwrap_err().to_string(),
            "the ranks of a group must call the same operations in the same order, found \
             rank 0: `barrier`, rank 1: `broadcast` from rank 1, rank 2: `broadcast` from rank 2"
        );
    }
}

#[test]
fn a_part_that_does_not_fit_is_an_error_and_not_a_panic() {
    let calls: [Call; 3] = [
        |group| group.all_gather(&[0u8; 4], &mut [0; 6]),
        |group| group.reduce_scatter_sum(&[0.0; 6], &mut [0.0; 4]),
        |group| group.all_to_all(&[0u8; 2], &mut [0; 4]),
    ];
    for (call, expected) in calls.into_iter().zip([3, 3, 2]) {
        for error in run_well(2, call) {
            let error = error.unwrap_err();
            let found = match &error {
                CollectiveError::Aborted { reason, .. } => reason.clone(),
                error => error.to_string(),
            };
            assert!(
                found.ends_with(&format!("got a part of 4 values, its share of the whole is {expected}")),
                "{found}"
            );
        }
    }
}

#[test]
fn a_rank_outside_the_group_is_an_error() {
    let error = run_well(2, |group| if group.rank() == 0 { group.send(&[1u8], 2) } else { group.barrier() });
    assert_eq!(
        error[0].clone().unwrap_err().to_string(),
        "rank 0: `send` to rank 2 names a rank outside the group, which has ranks 0 to 1"
    );
    assert!(matches!(&error[1], Err(CollectiveError::Aborted { by: 0, .. })));
}

#[test]
fn what_was_sent_before_a_rank_ended_is_still_delivered() {
    let mut groups = ThreadGroup::new(2, Duration::from_secs(60));
    let sender = groups.pop().unwrap();
    sender.send(&[7u8], 0).unwrap();
    drop(sender);
    let mut got = [0u8];
    groups[0].recv(&mut got, 1).unwrap();
    assert_eq!(got, [7]);
    assert!(matches!(groups[0].recv(&mut got, 1), Err(CollectiveError::Aborted { by: 1, .. })));
}
