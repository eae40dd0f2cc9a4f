//! Compiled programs: recorded when first needed, checked against the target's rules, compiled or taken from the cache.

use super::{TracedDevice, TracedOptions};
use crate::bucket::{CopyBucket, ForwardBucket};
use crate::cache::{Key, KeyParts, PluginFile};
use crate::error::DeviceError;
use crate::program::{Argument, Program, ProgramBuilder, ResultKey};
use crate::record::{Element, Type};
use crate::sampling::SampleBucket;
use crate::target::check;
use crate::tracer::HiddenShape;
use nxd_runtime::pjrt::{Buffer, Client, CompileOptions, Executable, MemoryStats, Program as Source};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// What a program was recorded for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bucket {
    Forward(ForwardBucket),
    Sample(SampleBucket, HiddenShape),
    Copy(CopyBucket),
}

/// A compiled program and how to call it.
pub(super) struct Loaded {
    pub(super) name: String,
    pub(super) arguments: Vec<Argument>,
    pub(super) results: Vec<(ResultKey, Type)>,
    pub(super) donated: Vec<usize>,
    pub(super) executable: Executable,
}

/// The programs of a device.
pub(super) struct Programs {
    loaded: HashMap<Bucket, Arc<Loaded>>,
    client: Client,
}

impl Programs {
    pub(super) fn new(client: &Client) -> Self {
        Programs { loaded: HashMap::new(), client: client.clone() }
    }

    pub(super) fn len(&self) -> usize {
        self.loaded.len()
    }

    pub(super) fn memory(&self) -> Vec<(String, MemoryStats)> {
        let of = |loaded: &Arc<Loaded>| Some((loaded.name.clone(), loaded.executable.memory_stats().ok()?));
        let mut all: Vec<_> = self.loaded.values().filter_map(of).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    pub(super) fn clear(&mut self) {
        self.loaded.clear();
    }

    pub(super) fn get(&self, bucket: &Bucket) -> Option<Arc<Loaded>> {
        self.loaded.get(bucket).cloned()
    }

    pub(super) fn insert(
        &mut self,
        bucket: Bucket,
        program: Program,
        name: String,
        options: &TracedOptions,
    ) -> Result<Arc<Loaded>, DeviceError> {
        let loaded = Arc::new(load(&self.client, program, name, options)?);
        self.loaded.insert(bucket, Arc::clone(&loaded));
        Ok(loaded)
    }
}

/// Checks and compiles a program, unless an earlier run left it in the cache.
fn load(client: &Client, program: Program, name: String, options: &TracedOptions) -> Result<Loaded, DeviceError> {
    let target = &options.target;
    check(&program, target).map_err(|source| DeviceError::Rule {
        program: name.clone(),
        target: target.name,
        source,
    })?;
    let program = match options.kernels.ready(program) {
        Ok(program) => program,
        Err(error) => return Err(DeviceError::Nki { program: name, source: Box::new(error) }),
    };
    let (replicas, partitions) = program.spread.counts(program.ranks);
    let compile_options = CompileOptions {
        replicas,
        partitions,
        use_spmd_partitioning: partitions > 1,
        flags: target.compile_flags(),
        ..CompileOptions::replicated(1)
    };
    let parts = KeyParts {
        text: &program.text,
        options: &compile_options.encode(),
        platform: client.platform_name(),
        platform_version: client.platform_version(),
        device_kind: client.devices().first().map_or("", |device| &device.kind),
        plugin: &PluginFile::of(client.plugin().path()),
    };
    let key = options.cache.as_ref().map(|cache| (cache, Key::of(&parts)));
    let start = Instant::now();
    let kept = key.as_ref().and_then(|(cache, key)| {
        // A program that the plugin does not take any more is compiled again.
        client.deserialize(&cache.get(key)?).ok().filter(|e| e.num_outputs() == program.results.len())
    });
    let from_cache = kept.is_some();
    let executable = match kept {
        Some(executable) => executable,
        None => {
            let source = Source::mlir(program.text.as_bytes());
            let failed = |source| DeviceError::Plugin { doing: format!("cannot compile program `{name}`"), source };
            let executable = client.compile(&source, &compile_options).map_err(failed)?;
            if let Some((cache, key)) = &key
                && let Ok(bytes) = executable.serialize()
            {
                cache.put(key, &bytes);
            }
            executable
        }
    };
    tracing::debug!(program = %name, from_cache, seconds = start.elapsed().as_secs_f64(), "program ready");
    let (found, expected) = (executable.num_outputs(), program.results.len());
    if found != expected {
        return Err(DeviceError::Results { program: name, found, expected });
    }
    let donated = program.donated();
    Ok(Loaded { name, arguments: program.arguments, results: program.results, donated, executable })
}

impl TracedDevice {
    /// A buffer of zeros on every rank, made there.
    pub(super) fn zeros(&self, dims: &[usize], element: Element) -> Result<Vec<Buffer>, DeviceError> {
        let mut b = ProgramBuilder::new();
        let zeros = b.rec.splat(0.0, dims, element);
        b.result(ResultKey::Named("zeros"), &zeros);
        let program = b.finish("zeros", self.ranks, self.options.spread);
        let loaded = load(&self.client, program, "zeros".to_owned(), &self.options)?;
        let none = vec![Vec::new(); self.ranks];
        let failed = |source| DeviceError::Plugin { doing: "cannot allocate the KV cache".to_owned(), source };
        let outputs = loaded.executable.execute(&none, &[]).map_err(failed)?;
        Ok(outputs.into_iter().flatten().collect())
    }
}
