//! The op suite: what every device must compute, checked against plain double precision (feature `testing`).
//!
//! A device's tests implement [`Harness`] and stamp the cases as tests of their own:
//!
//! ```text
//! nxd_ops::op_suite!(MyHarness::new());
//! ```
//!
//! Each case makes small random models and batches, runs a [`Program`] of one or a few ops on the device, and compares with a reference
//! written for reading. Numbers enter a forward step as rows of embedding tables, and leave it as the outputs of layers.
//!
//! *Does not know*: any device. Reading order: `harness`, `model`, `reference`, `cases`.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a suite fails by panicking, and prints what ran"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};

pub mod cases;
mod check;
mod drawing;
mod harness;
mod model;
mod random;
mod reference;
mod requests;
mod routing;

pub use harness::{Emitted, Harness, KvSetup, Op, Program, SampleResult};
pub use model::Model;

/// Stamps every case as a test that runs on the [`Harness`] that the expression makes.
#[macro_export]
macro_rules! op_suite {
    ($harness:expr) => {
        $crate::op_suite! { @cases $harness;
            embed embed_tied select_rows
            add bias scale gated shared_operands custom
            map positions
            norm norm_of_heads add_norm norm_over_ranks
            linear_floats linear_scaled linear_blocks linear_permuted linears linear_gated head
            route route_by_groups route_by_sparsemixer experts
            rope rope_of_request_length
            attend attend_copied attend_past_poison attend_with_sinks_and_caps
            all_reduce gather_columns embed_over_ranks linear_over_ranks head_over_ranks attend_over_ranks experts_over_ranks
            draw_greedy draw_filtered draw_penalised draw_biased draw_targets draw_forbidden draw_not_finite draw_logprobs
        }
    };
    (@cases $harness:expr; $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::testing::run(&mut $harness, stringify!($case), $crate::testing::cases::$case);
            }
        )*

        #[test]
        fn known_failures_are_cases() {
            $crate::testing::check_known_failures(&$harness, &[$(stringify!($case)),*]);
        }
    };
}

/// Runs a case with the seeds of the harness's rounds; one of its known failures must fail.
///
/// # Panics
/// When the device does not do what the case says, or passes although it is known to fail.
pub fn run<H: Harness>(harness: &mut H, name: &str, case: fn(&mut H, u64)) {
    let known = harness.known_failures().iter().find(|(failing, _)| *failing == name).map(|(_, why)| *why);
    let mut rounds = || {
        for seed in 0..harness.rounds() {
            println!("{name} with seed {seed}");
            case(harness, seed);
        }
    };
    match known {
        None => rounds(),
        Some(why) => {
            let outcome = catch_unwind(AssertUnwindSafe(rounds));
            assert!(outcome.is_err(), "`{name}` passes; take it off the known failures, where it stands because {why}");
        }
    }
}

/// Checks that every known failure is one of `cases` and has a reason.
///
/// # Panics
/// When one is not.
pub fn check_known_failures<H: Harness>(harness: &H, cases: &[&str]) {
    for (name, why) in harness.known_failures() {
        assert!(cases.contains(name), "known failure `{name}` is no case of the suite");
        assert!(!why.trim().is_empty(), "known failure `{name}` has no reason");
    }
}
