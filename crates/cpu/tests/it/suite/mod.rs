//! The op suite on the CPU device, in each of its numeric modes and instruction sets; and that the suite notices faults.

mod faults;
mod harness;

use harness::Cpu;
use nxd_cpu::{Activations, CpuOptions, Isa, KvDtype};

/// The best kernels of this machine, everything in single precision.
mod exact {
    use super::*;

    nxd_ops::op_suite!(Cpu { options: options(Isa::detect(), Activations::F32), kv: KvDtype::F32 });
}

/// Plain Rust: what other machines run.
mod scalar {
    use super::*;

    nxd_ops::op_suite!(Cpu { options: options(Isa::Scalar, Activations::F32), kv: KvDtype::F32 });
}

/// What users run unless they ask for something else.
mod fast {
    use super::*;

    nxd_ops::op_suite!(Cpu { options: options(Isa::detect(), Activations::Int8), kv: KvDtype::F16 });
}

/// Two threads a rank, so that work is shared out.
fn options(isa: Isa, activations: Activations) -> CpuOptions {
    CpuOptions { threads: 2, activations, isa, pin_threads: false }
}
