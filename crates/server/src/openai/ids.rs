//! Names of replies, and seeds of requests that name none: values that no other request has.

use crate::unique;
use std::time::{SystemTime, UNIX_EPOCH};

/// A name that no other reply has: `prefix` and 32 hexadecimal digits.
pub(super) fn reply_id(prefix: &str) -> String {
    let digits: String = unique::bytes().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{digits}")
}

/// A seed that no other request has.
pub(super) fn seed() -> u64 {
    unique::bytes().iter().take(8).fold(0, |seed, &byte| (seed << 8) | u64::from(byte))
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_seeds_differ() {
        let (first, second) = (reply_id("cmpl-"), reply_id("cmpl-"));
        assert!(first != second && first.starts_with("cmpl-") && first.len() == 37);
        assert_ne!(seed(), seed());
    }
}
