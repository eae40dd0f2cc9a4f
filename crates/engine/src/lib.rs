//! Continuous batching: scheduler, block manager, request streams.
