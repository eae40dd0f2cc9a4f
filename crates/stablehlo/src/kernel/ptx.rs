//! Kernels as PTX text inside the program: no CUDA library is called by us, the plugin assembles and launches them.
//!
//! A kernel's parameters are the addresses of its operands, then of its results; numbers must stand in the text. The name of the
//! call is internal to XLA (`xla/service/gpu/kernel_call.cc`), so a plugin of another version may not know it.

use super::Signature;
use crate::record::{CallConfig, CustomCall, quoted};

/// A kernel for one shape: its text, and how it is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// PTX.
    pub text: String,
    /// The `.entry` in it.
    pub entry: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Shared memory of a block, besides what the text declares.
    pub shared_bytes: u32,
}

/// What a kernel is launched as for tensors of these shapes.
pub type PtxKernel = fn(&Signature<'_>) -> Launch;

/// A float as PTX writes it: by its bits, so that nothing rounds.
pub fn ptx_float(value: f32) -> String {
    format!("0f{:08X}", value.to_bits())
}

/// The call of a kernel with so many operands and results.
pub(super) fn call(launch: &Launch, operands: usize, results: usize) -> CustomCall {
    let Launch { text, entry, grid, block, shared_bytes } = launch;
    let outputs: Vec<usize> = (operands..operands + results).collect();
    let [(gx, gy, gz), (bx, by, bz)] = [grid, block].map(|&[x, y, z]| (x, y, z));
    let config = format!(
        "{{name = {}, kernel_type = \"ptx\", kernel_data = {}, grid_x = {gx} : i32, grid_y = {gy} : i32, \
         grid_z = {gz} : i32, block_x = {bx} : i32, block_y = {by} : i32, block_z = {bz} : i32, \
         shared_mem_bytes = {shared_bytes} : i32, output_indices = {outputs:?}}}",
        quoted(entry),
        quoted(text)
    );
    let name = "__gpu$xla.gpu.ptx".to_owned();
    CustomCall { name, config: CallConfig::Text(config), aliases: Vec::new(), row_major: true }
}
