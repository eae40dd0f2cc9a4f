//! Options for clients and compilations, and the values that plugins report.
//!
//! `CompileOptionsProto` is written by hand: six of its fields are enough, in an order that never changes, so that equal options
//! are equal bytes and can be part of a cache key. Source: `xla/pjrt/proto/compile_options.proto`, OpenXLA.

use super::PjrtError;

/// An option of [`create_client`](super::Plugin::create_client), for example `cpu_device_count` or `memory_fraction`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each is named after what it holds")]
pub enum ClientOption {
    Text(String),
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Bool(bool),
}

/// A value that a plugin reports about itself, a device or an executable.
pub type AttributeValue = ClientOption;

/// A debug flag of XLA, for one compilation.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each is named after what it holds")]
pub enum Flag {
    Text(String),
    Bool(bool),
    Int(i64),
    Float(f64),
}

/// How to compile a program.
#[derive(Clone, Debug, PartialEq)]
pub struct CompileOptions {
    /// Copies of the program that run side by side, each on its own data.
    pub replicas: usize,
    /// Parts of one copy, each on its own device.
    pub partitions: usize,
    /// Whether the compiler partitions; must be on when `partitions` is above 1.
    pub use_spmd_partitioning: bool,
    /// Whether sharding annotations are Shardy's.
    pub use_shardy: bool,
    /// The device of each rank, rank = replica × partitions + partition; the client's devices in order when `None`.
    pub device_ids: Option<Vec<i64>>,
    /// Debug flags of XLA (`xla_…`).
    pub flags: Vec<(String, Flag)>,
}

impl Default for CompileOptions {
    /// One device.
    fn default() -> Self {
        Self {
            replicas: 1,
            partitions: 1,
            use_spmd_partitioning: false,
            use_shardy: false,
            device_ids: None,
            flags: Vec::new(),
        }
    }
}

impl CompileOptions {
    /// The same program on `count` devices, with collectives between replicas.
    pub fn replicated(count: usize) -> Self {
        Self { replicas: count, ..Self::default() }
    }

    /// The options as a plugin reads them. Equal options give equal bytes, whatever the order of `flags`.
    pub fn encode(&self) -> Vec<u8> {
        let mut build = Message::default();
        build.int(1, -1); // device_ordinal: none
        build.int(4, count(self.replicas));
        build.int(5, count(self.partitions));
        if self.use_spmd_partitioning {
            build.int(6, 1);
        }
        build.message(9, &self.assignment());
        if self.use_shardy {
            build.int(19, 1);
        }
        let mut options = Message::default();
        options.message(3, &build);
        let mut flags: Vec<_> = self.flags.iter().collect();
        flags.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, flag) in flags {
            let mut value = Message::default();
            match flag {
                Flag::Text(text) => value.bytes(1, text.as_bytes()),
                Flag::Bool(on) => value.int(2, i64::from(*on)),
                Flag::Int(number) => value.int(3, *number),
                Flag::Float(number) => value.double(4, *number),
            }
            let mut entry = Message::default();
            entry.bytes(1, name.as_bytes());
            entry.message(2, &value);
            options.message(7, &entry);
        }
        options.bytes
    }

    /// `DeviceAssignmentProto`: per partition, the devices of its replicas.
    fn assignment(&self) -> Message {
        let mut assignment = Message::default();
        assignment.int(1, count(self.replicas));
        assignment.int(2, count(self.partitions));
        for partition in 0..self.partitions {
            let mut ids = Message::default();
            for replica in 0..self.replicas {
                let rank = replica * self.partitions + partition;
                let given = self.device_ids.as_ref().and_then(|ids| ids.get(rank).copied());
                ids.varint(given.unwrap_or(count(rank)));
            }
            let mut computation = Message::default();
            computation.bytes(1, &ids.bytes);
            assignment.message(3, &computation);
        }
        assignment
    }

    /// How many devices the program runs on.
    ///
    /// # Errors
    ///
    /// The device ids do not fit replicas × partitions.
    pub(super) fn check(&self) -> Result<usize, PjrtError> {
        let ranks = self.replicas.saturating_mul(self.partitions);
        match &self.device_ids {
            Some(ids) if ids.len() != ranks => {
                Err(PjrtError::Assignment { found: ids.len(), replicas: self.replicas, partitions: self.partitions })
            }
            _ => Ok(ranks),
        }
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A protobuf message under construction.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn int(&mut self, field: u8, value: i64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u8, value: f64) {
        self.key(field, 1);
        self.bytes.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u8, value: &[u8]) {
        self.key(field, 2);
        self.varint(count(value.len()));
        self.bytes.extend(value);
    }

    fn message(&mut self, field: u8, value: &Message) {
        self.bytes(field, &value.bytes);
    }

    fn key(&mut self, field: u8, wire: i64) {
        self.varint(i64::from(field) << 3 | wire);
    }

    /// Seven bits a byte, lowest first; a negative number takes ten bytes.
    fn varint(&mut self, value: i64) {
        let mut rest = value.cast_unsigned();
        while rest >= 0x80 {
            self.bytes.push(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        self.bytes.push(rest.to_le_bytes()[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_device_is_encoded_as_the_wire_format_says() {
        #[rustfmt::skip]
        let expected = [
            // 3: build options, 24 bytes
            0x1A, 24,
            // 1: -1
            0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01,
            // 4: 1, 5: 1
            0x20, 1, 0x28, 1,
            // 9: {1: 1, 2: 1, 3: {1: [0]}}
            0x4A, 9, 0x08, 1, 0x10, 1, 0x1A, 3, 0x0A, 1, 0,
        ];
        let encoded = CompileOptions::default().encode();
        assert_eq!(encoded[2..], expected[2..]);
        assert_eq!(encoded[0], expected[0]);
        assert_eq!(usize::from(encoded[1]), encoded.len() - 2);
    }

    #[test]
    fn flags_in_another_order_are_the_same_bytes() {
        let flag = |name: &str, on| (name.to_owned(), Flag::Bool(on));
        let one = CompileOptions { flags: vec![flag("xla_a", true), flag("xla_b", false)], ..Default::default() };
        let two = CompileOptions { flags: vec![flag("xla_b", false), flag("xla_a", true)], ..Default::default() };
        assert_eq!(one.encode(), two.encode());
        let other = CompileOptions { flags: vec![flag("xla_a", false), flag("xla_b", false)], ..Default::default() };
        assert_ne!(one.encode(), other.encode());
    }

    #[test]
    fn devices_are_assigned_by_rank() {
        let options =
            CompileOptions { replicas: 2, partitions: 2, device_ids: Some(vec![4, 5, 6, 7]), ..Default::default() };
        let assignment = options.assignment().bytes;
        // Partition 0 has ranks 0 and 2, partition 1 has ranks 1 and 3.
        assert_eq!(assignment, [0x08, 2, 0x10, 2, 0x1A, 4, 0x0A, 2, 4, 6, 0x1A, 4, 0x0A, 2, 5, 7]);
        assert_eq!(options.check().unwrap(), 4);
        let short = CompileOptions { device_ids: Some(vec![0]), ..options };
        assert!(matches!(short.check(), Err(PjrtError::Assignment { found: 1, .. })));
    }
}
