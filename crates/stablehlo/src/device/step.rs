//! Running steps: a batch through its rectangles' programs, and hidden rows to tokens.

use super::programs::{Bucket, Loaded};
use super::{TracedDevice, upload};
use crate::error::DeviceError;
use crate::host::HostArray;
use crate::inputs::{Inputs, rectangles};
use crate::program::{ArgumentKey, ResultKey};
use crate::sampling::{self, SampleBucket};
use crate::tracer::{HiddenShape, Tracer};
use nxd_ops::{Batch, Drawn, Output, SamplingBatch, SamplingRow};
use nxd_runtime::pjrt::Buffer;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows that are sampled at once: bounds the memory of their logits, whatever the batch.
const TILE: usize = 64;

/// A forward step: hidden rows on the devices, and what was captured.
#[derive(Default)]
pub struct TracedStep {
    hidden: Vec<Hidden>,
    num_wanted: usize,
    /// Embedding and layer outputs, each `[T, E]`, where the batch captures them.
    pub layers: Vec<(Output, Vec<f32>)>,
}

/// The hidden result of one rectangle.
struct Hidden {
    /// On every rank.
    buffers: Vec<Buffer>,
    shape: HiddenShape,
    /// Row of the buffer and index among the batch's wanted rows.
    rows: Vec<(usize, usize)>,
}

impl TracedDevice {
    /// Runs a batch, which must have been validated ([`Batch::validate`]), to its wanted hidden rows. `record` records the model.
    ///
    /// # Errors
    /// When a program cannot be recorded or compiled, or fails; the cache is lost if it fails while it runs.
    pub fn forward(&mut self, batch: &Batch, record: impl Fn(&mut Tracer<'_>)) -> Result<TracedStep, DeviceError> {
        if self.lost {
            return Err(DeviceError::CacheLost);
        }
        self.copy_blocks(batch)?;
        let mut step = TracedStep { num_wanted: batch.wanted.len(), ..TracedStep::default() };
        for rectangle in rectangles(batch, &self.manifest, &self.kv_shape, self.options.max_rows) {
            let bucket = Bucket::Forward(rectangle.bucket.clone());
            let loaded = match self.programs.get(&bucket) {
                Some(loaded) => loaded,
                None => {
                    let mut tracer = Tracer::forward(self.setting(), &rectangle.bucket);
                    record(&mut tracer);
                    let program = tracer.finish();
                    self.programs.insert(bucket, program, rectangle.bucket.to_string(), &self.options)?
                }
            };
            let results = self.run(&loaded, &rectangle.inputs, None)?;
            for (key, buffers) in results {
                let ResultKey::Output(output) = key else { continue };
                if output == Output::Hidden {
                    let shape = HiddenShape { rows: buffers[0].dims()[0], cols: buffers[0].dims()[1] };
                    step.hidden.push(Hidden { buffers, shape, rows: rectangle.wanted.clone() });
                } else {
                    let cols = buffers[0].dims()[1];
                    let values = read_f32(&loaded, &buffers[0])?;
                    let rows = rectangle.rows.iter().zip(values.chunks_exact(cols.max(1)));
                    let layer = step.layer(output, batch.num_tokens() * cols);
                    for (row, values) in rows.filter_map(|(row, values)| Some(((*row)?, values))) {
                        layer[row * cols..][..cols].copy_from_slice(values);
                    }
                }
            }
        }
        Ok(step)
    }

    /// A step that starts from given hidden rows `[W, cols]` instead of a batch.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn open_rows(&self, values: &[f32], cols: usize) -> Result<TracedStep, DeviceError> {
        let rows = values.len() / cols.max(1);
        let array = HostArray::f32s(&[rows, cols], values);
        let doing = || "cannot upload hidden rows".to_owned();
        let buffers =
            (0..self.ranks).map(|rank| upload(&self.client, rank, &array, doing)).collect::<Result<_, _>>()?;
        let shape = HiddenShape { rows, cols };
        let hidden = vec![Hidden { buffers, shape, rows: (0..rows).map(|row| (row, row)).collect() }];
        Ok(TracedStep { hidden, num_wanted: rows, layers: Vec::new() })
    }

    /// The wanted hidden rows of a step, `[W, E]`.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn hidden(&self, step: &TracedStep) -> Result<Vec<f32>, DeviceError> {
        let cols = step.hidden.first().map_or(0, |hidden| hidden.shape.cols);
        let mut all = vec![0.0; step.num_wanted * cols];
        for hidden in step.hidden.iter().filter(|hidden| !hidden.rows.is_empty()) {
            let doing = || "cannot read hidden rows".to_owned();
            let values: Vec<f32> =
                hidden.buffers[0].to_vec().map_err(|source| DeviceError::Plugin { doing: doing(), source })?;
            for &(row, index) in &hidden.rows {
                all[index * cols..][..cols].copy_from_slice(&values[row * cols..][..cols]);
            }
        }
        Ok(all)
    }

    /// Goes from a step's hidden rows to tokens, and logits `[W, V]` where they are to be kept. `record` records head and sampler.
    ///
    /// # Errors
    /// When a program cannot be recorded or compiled, or fails.
    pub fn sample(
        &mut self,
        step: &TracedStep,
        sampling: &SamplingBatch,
        record: impl Fn(&mut Tracer<'_>),
    ) -> Result<(Vec<Drawn>, Vec<f32>), DeviceError> {
        let mut drawn = vec![Drawn::NotFinite; step.num_wanted];
        let mut logits = Vec::new();
        for hidden in &step.hidden {
            for tile in hidden.rows.chunks(TILE) {
                let rows: Vec<SamplingRow> = tile.iter().map(|&(_, index)| sampling.rows[index].clone()).collect();
                let bucket = SampleBucket::of(&rows, sampling.keep_logits);
                let loaded = self.sampler(&bucket, hidden.shape, &record)?;
                let mut inputs = sampling::inputs(&bucket, &rows);
                let mut places = vec![0; bucket.rows];
                places.iter_mut().zip(tile).for_each(|(place, &(row, _))| *place = row as i32);
                inputs.insert("rows".to_owned(), HostArray::i32s(&[bucket.rows], &places));
                let mut results = HashMap::new();
                for (key, buffers) in self.run(&loaded, &inputs, Some(&hidden.buffers))? {
                    match key {
                        ResultKey::Named(name) => {
                            results.insert(name, read(&loaded, &key, &buffers[0])?);
                        }
                        ResultKey::Output(Output::Logits) => {
                            let values = read_f32(&loaded, &buffers[0])?;
                            let vocab = buffers[0].dims()[1];
                            logits.resize(step.num_wanted * vocab, 0.0);
                            for (values, &(_, index)) in values.chunks_exact(vocab.max(1)).zip(tile) {
                                logits[index * vocab..][..vocab].copy_from_slice(values);
                            }
                        }
                        _ => {}
                    }
                }
                if results.is_empty() {
                    // Nothing was drawn: the recording ends with logits.
                    drawn.clear();
                    continue;
                }
                for (result, &(_, index)) in sampling::outputs(&bucket, &rows, &results).into_iter().zip(tile) {
                    drawn[index] = result;
                }
            }
        }
        Ok((drawn, logits))
    }

    /// The sampling program of a bucket.
    fn sampler(
        &mut self,
        bucket: &SampleBucket,
        shape: HiddenShape,
        record: impl Fn(&mut Tracer<'_>),
    ) -> Result<Arc<Loaded>, DeviceError> {
        let key = Bucket::Sample(bucket.clone(), shape);
        if let Some(loaded) = self.programs.get(&key) {
            return Ok(loaded);
        }
        let mut tracer = Tracer::sample(self.setting(), bucket, shape);
        record(&mut tracer);
        let program = tracer.finish();
        self.programs.insert(key, program, bucket.to_string(), &self.options)
    }

    /// Runs a program on every rank; caches are replaced, the other results are returned with their buffers on every rank.
    pub(super) fn run(
        &mut self,
        loaded: &Loaded,
        inputs: &Inputs,
        hidden: Option<&[Buffer]>,
    ) -> Result<Vec<(ResultKey, Vec<Buffer>)>, DeviceError> {
        let mut uploaded: HashMap<&str, Vec<Buffer>> = HashMap::new();
        for argument in &loaded.arguments {
            let ArgumentKey::Step(name) = &argument.key else { continue };
            if name == "hidden" && hidden.is_some() {
                continue;
            }
            let array = inputs.get(name).expect("a step gives every argument that a recording asks for");
            assert_eq!(array.ty(), argument.ty, "argument `{name}` of `{}`", loaded.name);
            let doing = || format!("cannot upload argument `{name}` of program `{}`", loaded.name);
            let buffers = (0..self.ranks).map(|rank| upload(&self.client, rank, array, doing));
            uploaded.insert(name, buffers.collect::<Result<_, _>>()?);
        }
        let buffers_of = |key: &ArgumentKey| -> &[Buffer] {
            match key {
                ArgumentKey::Weight { weight, part } => {
                    let parts = &self.weights[*weight as usize];
                    let found = parts.iter().find(|(p, _)| p == part);
                    &found.expect("a layout names the parts that a recording may ask for").1
                }
                ArgumentKey::Kv { layer, side } => &self.kv[&(*layer, *side)],
                ArgumentKey::Step(name) => {
                    uploaded.get(name.as_str()).map_or(hidden.unwrap_or_default(), Vec::as_slice)
                }
            }
        };
        let of_rank = |rank: usize| loaded.arguments.iter().map(|a| &buffers_of(&a.key)[rank]).collect::<Vec<_>>();
        let arguments: Vec<Vec<&Buffer>> = (0..self.ranks).map(of_rank).collect();
        let outputs = match loaded.executable.execute(&arguments, &loaded.donated) {
            Ok(outputs) => outputs,
            Err(source) => {
                // The buffers that it took over are gone.
                self.lost = !loaded.donated.is_empty();
                return Err(DeviceError::Plugin { doing: format!("program `{}` failed", loaded.name), source });
            }
        };
        let mut by_result: Vec<Vec<Buffer>> = loaded.results.iter().map(|_| Vec::with_capacity(self.ranks)).collect();
        for of_rank in outputs {
            for (buffers, buffer) in by_result.iter_mut().zip(of_rank) {
                buffers.push(buffer);
            }
        }
        let mut others = Vec::new();
        for ((key, _), buffers) in loaded.results.iter().zip(by_result) {
            match key {
                ResultKey::Kv { layer, side } => {
                    self.kv.insert((*layer, *side), buffers);
                }
                _ => others.push((key.clone(), buffers)),
            }
        }
        Ok(others)
    }
}

impl TracedStep {
    /// The array of a captured output, made when it is first asked for.
    fn layer(&mut self, output: Output, len: usize) -> &mut [f32] {
        let at = self.layers.iter().position(|(o, _)| *o == output).unwrap_or_else(|| {
            self.layers.push((output, vec![0.0; len]));
            self.layers.len() - 1
        });
        &mut self.layers[at].1
    }
}

fn read_f32(loaded: &Loaded, buffer: &Buffer) -> Result<Vec<f32>, DeviceError> {
    buffer.to_vec().map_err(|source| cannot_read(loaded, source))
}

/// A result as an array on the host.
fn read(loaded: &Loaded, key: &ResultKey, buffer: &Buffer) -> Result<HostArray, DeviceError> {
    let ty = &loaded.results[loaded.results.iter().position(|(k, _)| k == key).expect("a result of this program")].1;
    let mut data = vec![0; ty.bytes()];
    buffer.read(&mut data).map_err(|source| cannot_read(loaded, source))?;
    Ok(HostArray { dims: ty.dims.to_vec(), element: ty.element, data })
}

fn cannot_read(loaded: &Loaded, source: nxd_runtime::pjrt::PjrtError) -> DeviceError {
    DeviceError::Plugin { doing: format!("cannot read a result of program `{}`", loaded.name), source }
}
