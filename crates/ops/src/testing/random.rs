//! Random shapes and numbers that a seed fixes on every machine.

use crate::philox::{Purpose, uniform};

/// A generator of test data.
#[derive(Clone, Debug)]
pub(super) struct Random {
    seed: u64,
    drawn: u32,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random { seed, drawn: 0 }
    }

    /// A number in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        self.drawn += 1;
        uniform(self.seed, 0, self.drawn, Purpose::Draw)
    }

    /// An integer in `low..=high`.
    pub(super) fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.unit() * (high - low + 1) as f64) as usize
    }

    /// A number in `[-1, 1)`.
    pub(super) fn value(&mut self) -> f32 {
        (2.0 * self.unit() - 1.0) as f32
    }

    /// `count` numbers in `[-1, 1)`.
    pub(super) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }

    /// One of `choices`.
    pub(super) fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.between(0, choices.len() - 1)]
    }

    /// `0..count` in random order.
    pub(super) fn permutation(&mut self, count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count as u32).collect();
        for i in (1..count).rev() {
            let j = self.between(0, i);
            order.swap(i, j);
        }
        order
    }
}
