//! What a libnrt call answered: the documented status codes with their meaning and what to do.
//!
//! Source: `nrt_status.h` of aws-neuron-sdk.

use std::fmt;

/// A status other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// 1, nothing more specific.
    Failure,
    /// 2, a bad NEFF, descriptor or argument.
    Invalid,
    /// 3, not a handle of this library.
    InvalidHandle,
    /// 4, memory or another resource ran out.
    Resource,
    /// 5, the deadline of an execution passed.
    Timeout,
    /// 6, the device failed.
    Hardware,
    /// 7, too many executions are queued.
    QueueFull,
    /// 9, fewer cores are free than the NEFF needs.
    NotEnoughCores,
    /// 10, the NEFF is newer or older than the library accepts.
    UnsupportedNeffVersion,
    /// 11, host memory ran out.
    HostMemory,
    /// 13, before `nrt_init`.
    Uninitialized,
    /// 14, after `nrt_close`.
    Closed,
    /// 15, nothing is queued.
    QueueEmpty,
    /// 101, an execution unit is lost until it is reset.
    UnitUnrecoverable,
    /// 1002, tensors that the model does not take.
    BadInput,
    /// 1003, finished, with NaN.
    NumericalError,
    /// 1004, finished, with a logical or parity error.
    CompletedWithError,
    /// 1005, another model or process holds the core.
    CoreBusy,
    /// 1006, a gather or scatter left its tensor.
    OutOfBounds,
    /// 1100, not finished yet.
    CollectivePending,
    /// 1200, a collective got stuck.
    CollectiveStuck,
    /// 1201, device memory is damaged.
    MemoryUncorrectable,
    /// 1202, on-chip memory is damaged.
    CoreParity,
    /// 1203, a DMA engine stopped.
    DmaAborted,
    /// 1204, the notification queue overflowed.
    NotificationOverflow,
    /// 1205, device memory is damaged and can be repaired.
    MemoryRepairable,
    /// 1206, the network proxy failed.
    NetworkProxy,
    /// A code that this table lacks.
    Unknown(i32),
}

/// One documented code.
struct Row {
    status: Status,
    code: i32,
    name: &'static str,
    meaning: &'static str,
    advice: &'static str,
}

const fn row(status: Status, code: i32, name: &'static str, meaning: &'static str, advice: &'static str) -> Row {
    Row { status, code, name, meaning, advice }
}

const RESTART: &str = "restart the process; if it comes again, reset or replace the device";
const LOGS: &str = "set `NEURON_RT_LOG_LEVEL=INFO` and read the runtime's log";

const TABLE: [Row; 27] = [
    row(Status::Failure, 1, "NRT_FAILURE", "unspecific failure", LOGS),
    row(Status::Invalid, 2, "NRT_INVALID", "invalid NEFF, argument or tensor", LOGS),
    row(Status::InvalidHandle, 3, "NRT_INVALID_HANDLE", "not a handle of this library", LOGS),
    row(Status::Resource, 4, "NRT_RESOURCE", "out of device memory or of another resource", "load or allocate less"),
    row(Status::Timeout, 5, "NRT_TIMEOUT", "timed out", "raise `NEURON_RT_EXEC_TIMEOUT` (seconds), or restart"),
    row(Status::Hardware, 6, "NRT_HW_ERROR", "hardware failure", RESTART),
    row(Status::QueueFull, 7, "NRT_QUEUE_FULL", "too many executions are queued", "wait for one to finish"),
    row(
        Status::NotEnoughCores,
        9,
        "NRT_LOAD_NOT_ENOUGH_NC",
        "fewer cores are free than the NEFF needs",
        "give the process more with `NEURON_RT_NUM_CORES` or `NEURON_RT_VISIBLE_CORES`",
    ),
    row(
        Status::UnsupportedNeffVersion,
        10,
        "NRT_UNSUPPORTED_NEFF_VERSION",
        "this NEFF version is not supported",
        "update `aws-neuronx-runtime-lib`, or compile again with the `neuronx-cc` of the same SDK",
    ),
    row(Status::HostMemory, 11, "NRT_FAIL_HOST_MEM_ALLOC", "out of host memory", "free host memory"),
    row(Status::Uninitialized, 13, "NRT_UNINITIALIZED", "the runtime is not initialised", "start it first"),
    row(Status::Closed, 14, "NRT_CLOSED", "the runtime is closed", "start a new process"),
    row(Status::QueueEmpty, 15, "NRT_QUEUE_EMPTY", "nothing is queued", LOGS),
    row(
        Status::UnitUnrecoverable,
        101,
        "NRT_EXEC_UNIT_UNRECOVERABLE",
        "the execution unit failed and cannot recover",
        RESTART,
    ),
    row(
        Status::BadInput,
        1002,
        "NRT_EXEC_BAD_INPUT",
        "the model does not take these inputs",
        "compare them with the model's tensors",
    ),
    row(
        Status::NumericalError,
        1003,
        "NRT_EXEC_COMPLETED_WITH_NUM_ERR",
        "the execution produced NaN",
        "check the weights and their dtype",
    ),
    row(Status::CompletedWithError, 1004, "NRT_EXEC_COMPLETED_WITH_ERR", "the execution ended with an error", RESTART),
    row(
        Status::CoreBusy,
        1005,
        "NRT_EXEC_NC_BUSY",
        "another model or process holds the core",
        "end the other process, or choose other cores with `NEURON_RT_VISIBLE_CORES`",
    ),
    row(
        Status::OutOfBounds,
        1006,
        "NRT_EXEC_OOB",
        "an indirect access is out of bounds",
        "clamp the indices of gathers and scatters in the graph",
    ),
    row(Status::CollectivePending, 1100, "NRT_COLL_PENDING", "a collective is still pending", "wait for every rank"),
    row(
        Status::CollectiveStuck,
        1200,
        "NRT_EXEC_HW_ERR_COLLECTIVES",
        "a collective is stuck, perhaps by a failure of another rank",
        "read the logs of every rank, then restart them all",
    ),
    row(
        Status::MemoryUncorrectable,
        1201,
        "NRT_EXEC_HW_ERR_HBM_UE",
        "device memory has an uncorrectable error, results are wrong",
        "replace the device",
    ),
    row(
        Status::CoreParity,
        1202,
        "NRT_EXEC_HW_ERR_NC_UE",
        "on-chip memory has a parity error, results are wrong",
        RESTART,
    ),
    row(Status::DmaAborted, 1203, "NRT_EXEC_HW_ERR_DMA_ABORT", "a DMA engine failed", RESTART),
    row(
        Status::NotificationOverflow,
        1204,
        "NRT_EXEC_SW_NQ_OVERFLOW",
        "the notification queue overflowed",
        "run a smaller graph",
    ),
    row(
        Status::MemoryRepairable,
        1205,
        "NRT_EXEC_HW_ERR_REPAIRABLE_HBM_UE",
        "device memory has a repairable error, results are wrong",
        "restart the instance, so that the memory is repaired",
    ),
    row(
        Status::NetworkProxy,
        1206,
        "NRT_NETWORK_PROXY_FAILURE",
        "the network proxy between hosts failed",
        "check the EFA network and `NEURON_RT_ROOT_COMM_ID`",
    ),
];

impl Status {
    /// The status of `code`; `None` is success.
    pub fn from_code(code: i32) -> Option<Self> {
        if code == 0 {
            return None;
        }
        Some(TABLE.iter().find(|row| row.code == code).map_or(Self::Unknown(code), |row| row.status))
    }

    /// The number that the library gave.
    pub fn code(self) -> i32 {
        match self {
            Self::Unknown(code) => code,
            known => known.row().map_or(0, |row| row.code),
        }
    }

    /// The name in `nrt_status.h`, where it has one.
    pub fn name(self) -> Option<&'static str> {
        self.row().map(|row| row.name)
    }

    /// Whether the process cannot go on with this device.
    pub fn needs_restart(self) -> bool {
        matches!(
            self,
            Self::Hardware
                | Self::Closed
                | Self::UnitUnrecoverable
                | Self::CompletedWithError
                | Self::CollectiveStuck
                | Self::MemoryUncorrectable
                | Self::CoreParity
                | Self::DmaAborted
                | Self::MemoryRepairable
                | Self::NetworkProxy
        )
    }

    fn row(self) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.status == self)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some(row) => write!(out, "{} ({}, {}); {}", row.meaning, row.name, row.code, row.advice),
            None => write!(out, "status {}, which this binding does not know; {LOGS}", self.code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_code_and_by_its_status() {
        for row in &TABLE {
            assert_eq!(Status::from_code(row.code), Some(row.status));
            assert_eq!(row.status.code(), row.code);
            assert_eq!(row.status.name(), Some(row.name));
        }
    }

    #[test]
    fn success_is_no_status_and_an_unknown_code_keeps_its_number() {
        assert_eq!(Status::from_code(0), None);
        for code in [-1, 8, 12, 1207, i32::MIN] {
            let status = Status::from_code(code).unwrap();
            assert_eq!((status, status.code(), status.name()), (Status::Unknown(code), code, None));
            assert!(status.to_string().starts_with(&format!("status {code},")), "{status}");
        }
    }

    #[test]
    fn a_lost_unit_needs_a_restart_and_a_bad_index_does_not() {
        assert!(Status::UnitUnrecoverable.needs_restart());
        assert!(!Status::OutOfBounds.needs_restart());
    }
}
