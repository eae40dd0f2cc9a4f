//! What the device promises, checked from outside.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their support functions too")]

mod goldens;
mod sampling;
mod suite;
mod teams;
