//! What can go wrong with a plugin, and the plugin's own words.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::ElementType;
use crate::library::{LoadError, install};

/// A failure of a PJRT plugin, or of a call to one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PjrtError {
    /// The plugin's file is missing, is no library, or is no PJRT plugin.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// `GetPjrtApi` returned nothing.
    #[error("{}: `GetPjrtApi` returned no function table; {}", path.display(), install(path))]
    NoTable {
        /// The plugin.
        path: PathBuf,
    },
    /// The plugin speaks another major version of the PJRT C API.
    #[error("{}: speaks PJRT C API {}.{}, nxd speaks 0.x; {}", path.display(), found.0, found.1, install(path))]
    Version {
        /// The plugin.
        path: PathBuf,
        /// Its major and minor version.
        found: (i32, i32),
    },
    /// The plugin's function table ends before functions that nothing works without.
    #[error("{}: its PJRT function table has {found_bytes} bytes, at least {least_bytes} are needed (too old, or damaged); {}",
        path.display(), install(path))]
    SmallTable {
        /// The plugin.
        path: PathBuf,
        /// The table's size.
        found_bytes: usize,
        /// The least size that works.
        least_bytes: usize,
    },
    /// The plugin lacks a function or an extension.
    #[error("{}: this plugin has no `{what}`; a newer one may", path.display())]
    Unsupported {
        /// The plugin.
        path: PathBuf,
        /// The function or extension, as the C header names it.
        what: &'static str,
    },
    /// The plugin refused or failed a call.
    #[error("`{function}` failed ({code}): {text}")]
    Plugin {
        /// The function, as the C header names it.
        function: &'static str,
        /// The kind of failure.
        code: ErrorCode,
        /// The plugin's words.
        text: String,
    },
    /// The plugin returned something that makes no sense.
    #[error("`{function}` returned {what}; this is a fault of the plugin")]
    Nonsense {
        /// The function, as the C header names it.
        function: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// A device number that the client does not have.
    #[error("there is no device {index}: the client has {count}")]
    Device {
        /// What was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// Host bytes do not fit a buffer's shape.
    #[error("{element}{dims:?} is {needed_bytes} bytes, the host side has {found_bytes}")]
    Length {
        /// The buffer's element type.
        element: ElementType,
        /// The buffer's shape.
        dims: Vec<usize>,
        /// What the shape needs.
        needed_bytes: usize,
        /// What the host gave.
        found_bytes: usize,
    },
    /// A shape with more elements than a machine can address.
    #[error("{element}{dims:?} has more elements than can be addressed")]
    TooLarge {
        /// The element type.
        element: ElementType,
        /// The shape.
        dims: Vec<usize>,
    },
    /// A buffer was asked for elements of another type.
    #[error("the buffer holds {found}, not {wanted}")]
    Element {
        /// What the buffer holds.
        found: ElementType,
        /// The Rust type that was asked for.
        wanted: &'static str,
    },
    /// An element type that this binding does not know.
    #[error("the plugin uses element type {number}, which nxd does not know; update nxd")]
    UnknownElement {
        /// The header's number.
        number: i32,
    },
    /// Argument lists that do not fit the executable.
    #[error(
        "the executable runs on {devices} devices and takes the same number of arguments on each; got lists of {found:?}"
    )]
    Arguments {
        /// How many devices the executable was compiled for.
        devices: usize,
        /// The lengths of the lists.
        found: Vec<usize>,
    },
    /// A donated argument number past the end.
    #[error("argument {index} cannot be donated: there are {count} arguments")]
    Donated {
        /// The argument's number.
        index: usize,
        /// How many arguments there are.
        count: usize,
    },
    /// A device assignment of the wrong length.
    #[error("{found} device ids given for {replicas} replicas × {partitions} partitions")]
    Assignment {
        /// How many ids there are.
        found: usize,
        /// Replicas asked for.
        replicas: usize,
        /// Partitions asked for.
        partitions: usize,
    },
    /// Saved bytes of an executable that are damaged or not ours.
    #[error("these bytes are not an executable that nxd saved: {what}; compile it again")]
    Saved {
        /// What is wrong.
        what: &'static str,
    },
    /// Another function has the name.
    #[error(
        "another function is registered as custom call `{name}` on `{platform}`; a name belongs to one for the whole process"
    )]
    HandlerTaken {
        /// The custom call.
        name: String,
        /// The platform.
        platform: String,
    },
    /// No plugin was found on this machine.
    #[error("no PJRT plugin for `{kind}` was found; {install}, or name its file in `{variable}`; looked for {looked}")]
    NotFound {
        /// The device.
        kind: super::Kind,
        /// What to install.
        install: &'static str,
        /// The environment variable that names a plugin.
        variable: &'static str,
        /// The places.
        looked: String,
    },
}

/// The kind of a plugin's failure (the codes of Abseil's status).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names are Abseil's and say it")]
pub enum ErrorCode {
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl ErrorCode {
    const ALL: [(ErrorCode, &'static str); 16] = [
        (Self::Cancelled, "cancelled"),
        (Self::Unknown, "unknown"),
        (Self::InvalidArgument, "invalid argument"),
        (Self::DeadlineExceeded, "deadline exceeded"),
        (Self::NotFound, "not found"),
        (Self::AlreadyExists, "already exists"),
        (Self::PermissionDenied, "permission denied"),
        (Self::ResourceExhausted, "resource exhausted"),
        (Self::FailedPrecondition, "failed precondition"),
        (Self::Aborted, "aborted"),
        (Self::OutOfRange, "out of range"),
        (Self::Unimplemented, "unimplemented"),
        (Self::Internal, "internal"),
        (Self::Unavailable, "unavailable"),
        (Self::DataLoss, "data loss"),
        (Self::Unauthenticated, "unauthenticated"),
    ];

    /// From the header's number, which counts from 1.
    pub(super) fn from_number(number: i32) -> Self {
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        index.and_then(|index| Self::ALL.get(index)).map_or(Self::Unknown, |(code, _)| *code)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(code, _)| code == self).map_or("unknown", |(_, name)| name);
        out.write_str(name)
    }
}

impl PjrtError {
    /// Whether the plugin says that it does not do this at all, as against having failed at it.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported { .. } | Self::Plugin { code: ErrorCode::Unimplemented, .. })
    }
}
