//! Bytes that no other call of this process and no other process has: for ids, and for seeds of requests that name none.

use sha2::{Digest, Sha256};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes that were never given before.
pub(crate) fn bytes() -> [u8; 32] {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    static START: OnceLock<u128> = OnceLock::new();
    let start = START.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()));
    let mut hash = Sha256::new();
    hash.update(start.to_le_bytes());
    hash.update(std::process::id().to_le_bytes());
    hash.update(CALLS.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    hash.finalize().into()
}
