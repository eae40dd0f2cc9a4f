//! The memory that all bodies take together, from their first byte until their fields are read: one large body may come, many at once may
//! not.

use crate::error::ApiError;
use axum::http::StatusCode;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the bodies of all requests may take together.
#[derive(Debug)]
pub(crate) struct BodyRoom {
    /// Most bytes.
    allowed: usize,
    held: AtomicUsize,
}

/// What one body takes; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    room: Arc<BodyRoom>,
    bytes: usize,
}

impl BodyRoom {
    /// Room for `allowed` bytes. A single body is let in whatever it takes when there is no other.
    pub(crate) fn new(allowed: usize) -> Self {
        BodyRoom { allowed, held: AtomicUsize::new(0) }
    }
}

impl Held {
    /// A body of which nothing has come.
    pub(super) fn nothing(room: &Arc<BodyRoom>) -> Self {
        Held { room: Arc::clone(room), bytes: 0 }
    }

    /// Takes room for more of the body.
    ///
    /// # Errors
    /// 429 when others have left too little.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let allowed = self.room.allowed;
        let grown = |held: usize| {
            let together = held.saturating_add(bytes);
            // Alone, it is bounded by the limit of one body.
            (together <= allowed || held == self.bytes).then_some(together)
        };
        match self.room.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, grown) {
            Ok(_) => {
                self.bytes = self.bytes.saturating_add(bytes);
                Ok(())
            }
            Err(held) => {
                let message = format!(
                    "the bodies of the requests that are being read take {held} bytes of {allowed} already; try again later"
                );
                let full = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "bodies_full", message);
                Err(ApiError { retry_after: Some(1), ..full })
            }
        }
    }

    /// Takes room for the values that a whole body becomes, of which a short text can hold many.
    ///
    /// # Errors
    /// As [`Held::grow`].
    pub(super) fn grow_for_values(&mut self, text: &[u8]) -> Result<(), ApiError> {
        // Each value but the first stands behind one of these; those inside strings count too much, which is on the safe side.
        let values = text.iter().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count();
        self.grow(values.saturating_mul(size_of::<Value>()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.held.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_body_may_be_large_and_many_may_not() {
        let room = Arc::new(BodyRoom::new(100));
        let (mut first, mut second) = (Held::nothing(&room), Held::nothing(&room));
        first.grow(60).unwrap();
        second.grow(40).unwrap();
        let error = second.grow(1).unwrap_err();
        assert_eq!((error.status.as_u16(), error.code, error.retry_after), (429, "bodies_full", Some(1)));
        assert_eq!(
            error.message,
            "the bodies of the requests that are being read take 100 bytes of 100 already; try again later"
        );
        drop(second);
        first.grow(1000).unwrap();
        assert!(Held::nothing(&room).grow(1).is_err());
        drop(first);
        assert_eq!(room.held.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn values_are_counted_before_they_are_made() {
        let room = Arc::new(BodyRoom::new(10 * size_of::<Value>()));
        let mut other = Held::nothing(&room);
        other.grow(1).unwrap();
        let mut held = Held::nothing(&room);
        held.grow_for_values(br#"{"a": [1, 2, 3], "b": 4}"#).unwrap();
        assert_eq!(held.bytes, 7 * size_of::<Value>());
        assert!(held.grow_for_values(b"[[[[").is_err());
    }
}
