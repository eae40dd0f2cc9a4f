//! An executable: a compiled program, loaded on its devices.

use std::fmt;

use super::abi::{self, Opaque, SizedStruct};
use super::buffer::Handle;
use super::event::Event;
use super::plugin::{named_values, not_null, text};
use super::{AttributeValue, Buffer, Client, PjrtError};

/// A compiled program on its devices.
pub struct Executable {
    client: Client,
    /// On its devices.
    loaded: Opaque,
    /// As a program.
    program: Opaque,
    num_outputs: usize,
    num_devices: usize,
}

// SAFETY: PJRT executables may be used from any thread, several at a time.
unsafe impl Send for Executable {}
// SAFETY: as above.
unsafe impl Sync for Executable {}

/// What the compiler planned for one device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Code.
    pub code_bytes: i64,
    /// Arguments.
    pub argument_bytes: i64,
    /// Outputs, aliased ones included.
    pub output_bytes: i64,
    /// Outputs that take the place of a donated argument.
    pub alias_bytes: i64,
    /// Scratch space.
    pub temporary_bytes: i64,
    /// The most that is used at one time; 0 where the plugin does not say.
    pub peak_bytes: i64,
}

impl Executable {
    /// # Safety
    ///
    /// `loaded` is an executable of `client` that nobody else destroys.
    pub(super) unsafe fn new(client: &Client, loaded: Opaque) -> Result<Self, PjrtError> {
        let plugin = client.plugin();
        // Whole at once, so that a failure below destroys what there is.
        let mut executable =
            Self { client: client.clone(), loaded, program: std::ptr::null_mut(), num_outputs: 0, num_devices: 0 };
        // SAFETY: the executable is live, and its program belongs to us.
        unsafe {
            executable.program = plugin.pointer(abi::LOADED_EXECUTABLE, loaded)?;
            executable.num_outputs = plugin.size(abi::EXECUTABLE_NUM_OUTPUTS, executable.program)?;
            executable.num_devices = plugin.pointers(abi::LOADED_DEVICES, loaded)?.len();
        }
        Ok(executable)
    }

    /// Runs the program on all its devices, and waits until all are done.
    ///
    /// `arguments` has a list a device, in rank order, and so has the result. Buffers at the places `donated` are emptied, and an
    /// output that the program aliases to one takes its place; all other arguments are kept, whatever the program says.
    ///
    /// Element types and shapes are the caller's to get right: XLA's plugins compare sizes in bytes only.
    ///
    /// # Errors
    ///
    /// The lists do not fit, a buffer was donated before, or the program fails. After a failure donated buffers may be gone.
    pub fn execute(&self, arguments: &[Vec<&Buffer>], donated: &[usize]) -> Result<Vec<Vec<Buffer>>, PjrtError> {
        let num_arguments = arguments.first().map_or(0, Vec::len);
        if arguments.len() != self.num_devices || arguments.iter().any(|list| list.len() != num_arguments) {
            let found = arguments.iter().map(Vec::len).collect();
            return Err(PjrtError::Arguments { devices: self.num_devices, found });
        }
        if let Some(index) = donated.iter().copied().find(|index| *index >= num_arguments) {
            return Err(PjrtError::Donated { index, count: num_arguments });
        }
        let mut is_kept = vec![true; num_arguments];
        donated.iter().for_each(|index| is_kept[*index] = false);
        let kept: Vec<i64> = (0_i64..).zip(is_kept).filter_map(|(index, kept)| kept.then_some(index)).collect();
        let mut options = abi::ExecuteOptions::zeroed();
        options.kept = kept.as_ptr();
        options.num_kept = kept.len();

        let lists: Vec<Vec<Opaque>> =
            arguments.iter().map(|list| list.iter().map(|buffer| buffer.raw()).collect()).collect();
        let lists: Vec<*const Opaque> = lists.iter().map(|list| list.as_ptr()).collect();
        let mut outputs = vec![vec![std::ptr::null_mut(); self.num_outputs]; self.num_devices];
        let output_lists: Vec<*mut Opaque> = outputs.iter_mut().map(|list| list.as_mut_ptr()).collect();
        // Always asked for: AWS's plugin needs the slots.
        let mut done: Vec<Opaque> = vec![std::ptr::null_mut(); self.num_devices];
        let mut args = abi::Execute::zeroed();
        args.executable = self.loaded;
        args.options = &options;
        args.arguments = lists.as_ptr();
        args.num_devices = self.num_devices;
        args.num_arguments = num_arguments;
        args.outputs = output_lists.as_ptr();
        args.done = done.as_mut_ptr();
        let plugin = self.client.plugin();
        // SAFETY: lists have the lengths that are passed with them and outlive the call; buffers are borrowed until the end.
        unsafe { plugin.call(abi::LOADED_EXECUTE, &mut args) }?;
        self.collect(outputs, done)
    }

    /// Takes over outputs and events, then waits for all of them before it reports the first failure.
    fn collect(&self, outputs: Vec<Vec<Opaque>>, done: Vec<Opaque>) -> Result<Vec<Vec<Buffer>>, PjrtError> {
        let plugin = self.client.plugin();
        // SAFETY: new events, handed out once.
        let events: Vec<Event<'_>> = done.into_iter().map(|raw| unsafe { Event::new(plugin, raw) }).collect();
        let take = |raw: Opaque| {
            let raw = not_null(abi::LOADED_EXECUTE.name, raw)?;
            // SAFETY: a new buffer of this client, handed out once.
            Ok(unsafe { Handle::new(&self.client, raw) })
        };
        let handles: Vec<Vec<Result<Handle, PjrtError>>> =
            outputs.into_iter().map(|list| list.into_iter().map(take).collect()).collect();
        let results: Vec<Result<(), PjrtError>> = events.into_iter().map(Event::wait).collect();
        results.into_iter().collect::<Result<(), _>>()?;
        handles.into_iter().map(|list| list.into_iter().map(|handle| Buffer::new(handle?)).collect()).collect()
    }

    /// How many outputs the program has on each device.
    pub fn num_outputs(&self) -> usize {
        self.num_outputs
    }

    /// How many devices the program runs on.
    pub fn num_devices(&self) -> usize {
        self.num_devices
    }

    /// The client whose devices these are.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The name of the program's module.
    ///
    /// # Errors
    ///
    /// The plugin does not say.
    pub fn name(&self) -> Result<String, PjrtError> {
        // SAFETY: the program is live.
        unsafe { self.client.plugin().text(abi::EXECUTABLE_NAME, self.program) }
    }

    /// The executable as bytes for [`Client::deserialize`], behind a checksum: XLA loads damaged machine code, and runs it.
    ///
    /// # Errors
    ///
    /// The plugin cannot save this program.
    pub fn serialize(&self) -> Result<Vec<u8>, PjrtError> {
        // SAFETY: the program is live.
        let bytes = unsafe { self.client.plugin().owned_bytes(abi::EXECUTABLE_SERIALIZE, self.program) }?;
        Ok(super::saved::seal(&bytes))
    }

    /// What the compiler planned in memory, for one device.
    ///
    /// # Errors
    ///
    /// The plugin does not say ([`PjrtError::is_unsupported`]).
    pub fn memory_stats(&self) -> Result<MemoryStats, PjrtError> {
        let mut args = abi::CompiledMemory::zeroed();
        args.executable = self.program;
        // SAFETY: the program is live.
        unsafe { self.client.plugin().call(abi::EXECUTABLE_MEMORY, &mut args) }?;
        Ok(MemoryStats {
            code_bytes: args.code,
            argument_bytes: args.arguments,
            output_bytes: args.outputs,
            alias_bytes: args.aliased,
            temporary_bytes: args.temporary,
            peak_bytes: args.peak,
        })
    }

    /// What the compiler thinks a run costs, for example `flops` and `bytes accessed`.
    ///
    /// # Errors
    ///
    /// The plugin does not say ([`PjrtError::is_unsupported`]).
    pub fn cost(&self) -> Result<Vec<(String, AttributeValue)>, PjrtError> {
        let mut args = abi::GetCountedValues::zeroed();
        args.object = self.program;
        // SAFETY: the program is live, and its properties live as long.
        unsafe {
            self.client.plugin().call(abi::EXECUTABLE_COST, &mut args)?;
            Ok(named_values(args.items, args.len))
        }
    }

    /// Bytes that are equal for equal programs, options and compilers.
    ///
    /// # Errors
    ///
    /// The plugin does not say ([`PjrtError::is_unsupported`]).
    pub fn fingerprint(&self) -> Result<String, PjrtError> {
        // SAFETY: the program is live.
        unsafe { self.client.plugin().text(abi::EXECUTABLE_FINGERPRINT, self.program) }
    }

    /// The program after optimisation: its format (`hlo`, `hlo_with_config`, `mlir`) and its bytes.
    ///
    /// # Errors
    ///
    /// The plugin does not say ([`PjrtError::is_unsupported`]).
    pub fn optimized_program(&self) -> Result<(String, Vec<u8>), PjrtError> {
        let plugin = self.client.plugin();
        let mut program = abi::Program::zeroed();
        let mut args = abi::OptimizedProgram::zeroed();
        args.executable = self.program;
        args.program = &raw mut program;
        // SAFETY: without room for code, the first call tells the size.
        unsafe { plugin.call(abi::EXECUTABLE_OPTIMIZED_PROGRAM, &mut args) }?;
        let mut code = vec![0_u8; program.code_len];
        program.code = code.as_mut_ptr().cast();
        args.program = &raw mut program;
        // SAFETY: there is room for the size that the first call told.
        unsafe { plugin.call(abi::EXECUTABLE_OPTIMIZED_PROGRAM, &mut args) }?;
        code.truncate(program.code_len);
        // SAFETY: the format's name is constant data of the plugin.
        Ok((unsafe { text(program.format.cast(), program.format_len) }, code))
    }
}

impl fmt::Debug for Executable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (outputs, devices) = (self.num_outputs, self.num_devices);
        out.debug_struct("Executable").field("outputs", &outputs).field("devices", &devices).finish_non_exhaustive()
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        // SAFETY: both are ours and not used again; the client is still there.
        unsafe {
            self.client.plugin().release(abi::LOADED_DESTROY, self.loaded);
            if !self.program.is_null() {
                self.client.plugin().release(abi::EXECUTABLE_DESTROY, self.program);
            }
        }
    }
}
