//! Attention against double precision, and its bits under every way to cut, place and share the same rows.

use super::{Attend, AttendScratch, attend};
use crate::isa::Isa;
use crate::kv::{KvCache, KvDtype, Place};
use crate::team::Team;
use half::{bf16, f16};
use nxd_ops::quant::{e4m3_to_f32, f32_to_e4m3};
use nxd_ops::{AttendSpec, Batch, GroupTables, KvSpec, Values};
use proptest::prelude::*;

/// What the bits may depend on.
#[derive(Clone, Copy, Debug)]
struct Model {
    spec: KvSpec,
    group: usize,
    dtype: KvDtype,
    softcap: Option<f32>,
    /// Whether query heads have sinks: their numbers, times a half.
    sinks: bool,
}

/// What they may not depend on.
#[derive(Clone, Debug)]
struct Way {
    isa: Isa,
    threads: usize,
    block_size: usize,
    /// Steps, each the requests that have rows and how many.
    steps: Vec<Vec<(usize, usize)>>,
}

#[derive(Clone, Copy)]
enum What {
    Q,
    K,
    V,
}

/// A number that depends on request, position and place in the row alone.
fn value(request: usize, position: usize, what: What, i: usize) -> f32 {
    let mut x = (request as u64) << 48 ^ (position as u64) << 24 ^ (i as u64) << 4 ^ what as u64;
    for _ in 0..3 {
        x = (x ^ x >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    ((x >> 40) as f32 / (1 << 23) as f32 - 1.0) * if matches!(what, What::Q) { 4.0 } else { 1.0 }
}

fn row(request: usize, position: usize, what: What, len: usize) -> impl Iterator<Item = f32> {
    (0..len).map(move |i| value(request, position, what, i))
}

/// May change the K and V rows of a request at a position before they are written.
type Spoil<'a> = dyn Fn(usize, usize, &mut [f32], &mut [f32]) + 'a;

/// A request's blocks: given out in a scattered order, given back behind the window.
#[derive(Default)]
struct Request {
    done: usize,
    first_block: usize,
    blocks: Vec<u32>,
}

impl Model {
    fn attend_spec(&self) -> AttendSpec {
        AttendSpec {
            softcap: self.softcap,
            ..AttendSpec::new(self.spec.num_kv_heads * self.group, 1.0 / (self.spec.head_dim as f32).sqrt())
        }
    }

    /// Length of a query row.
    fn width(&self) -> usize {
        self.spec.num_kv_heads * self.group * self.spec.head_dim
    }

    /// Length of a row of outputs.
    fn out_width(&self) -> usize {
        self.spec.num_kv_heads * self.group * self.spec.value_dim()
    }

    /// The outputs of every request, `[positions, H * D]`. Whatever was not written, or was given back, is NaN.
    fn run_spoiled(&self, way: &Way, spoil: &Spoil<'_>) -> Vec<Vec<f32>> {
        let Way { isa, threads, block_size, ref steps } = *way;
        let requests = steps.iter().flatten().map(|&(r, _)| r + 1).max().unwrap_or(0);
        let tokens: usize = steps.iter().flatten().map(|&(_, n)| n).sum();
        let num_blocks = tokens / block_size + requests + 1;
        let mut cache = KvCache::new(2, &self.spec, num_blocks, block_size, self.dtype).unwrap();
        cache.memory.bytes_mut().fill(0xff);
        let mut free: Vec<u32> = (0..num_blocks as u32).collect();
        free.sort_unstable_by_key(|b| b.wrapping_mul(0x9e37_79b9));
        let (team, mut scratch, spec) = (Team::new(threads), AttendScratch::default(), self.attend_spec());
        let sinks: Vec<f32> = (0..spec.num_heads).map(|head| head as f32 / 2.0).collect();
        let mut states: Vec<Request> = (0..requests).map(|_| Request::default()).collect();
        let mut outputs = vec![Vec::new(); requests];
        for step in steps {
            let mut batch = Batch { query_starts: vec![0], ..Batch::default() };
            let mut tables = GroupTables { starts: vec![0], ..GroupTables::default() };
            let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
            let kv_width = self.spec.num_kv_heads * self.spec.head_dim;
            for &(r, n) in step {
                let state = &mut states[r];
                let oldest = self.spec.window.map_or(0, |w| (state.done + 1).saturating_sub(w));
                while state.first_block < oldest / block_size && !state.blocks.is_empty() {
                    let block = state.blocks.remove(0);
                    state.first_block += 1;
                    for place in (0..2).flat_map(|layer| cache.shape.places_of(layer, block as usize)) {
                        cache.memory.bytes_mut()[place].fill(0xff);
                    }
                    free.push(block);
                }
                while (state.first_block + state.blocks.len()) * block_size < state.done + n {
                    state.blocks.push(free.remove(0));
                }
                for position in state.done..state.done + n {
                    batch.token_ids.push(0);
                    batch.positions.push(position as u32);
                    q.extend(row(r, position, What::Q, self.width()));
                    let at = k.len();
                    k.extend(row(r, position, What::K, kv_width));
                    v.extend(row(r, position, What::V, kv_width));
                    spoil(r, position, &mut k[at..], &mut v[at..]);
                }
                state.done += n;
                batch.query_starts.push(batch.token_ids.len() as u32);
                batch.rope_lens.push(0);
                tables.first_blocks.push(state.first_block as u32);
                tables.blocks.extend(&state.blocks);
                tables.starts.push(tables.blocks.len() as u32);
            }
            batch.groups.push(tables);
            batch.validate(1, &[(self.spec, num_blocks)], block_size).unwrap();
            let place = Place { layer: 1, batch: &batch, tables: &batch.groups[0] };
            let own_values = self.spec.values == Values::Own;
            cache.write(&team, isa, &place, &k, own_values.then_some(&*v));
            let mut out = vec![f32::NAN; batch.num_tokens() * self.out_width()];
            attend(
                &team,
                isa,
                &q,
                &Attend { cache: &cache, place, spec: &spec, sinks: self.sinks.then_some(&sinks) },
                &mut out,
                &mut scratch,
            );
            for (i, &(r, _)) in step.iter().enumerate() {
                let rows = batch.rows(i);
                outputs[r].extend_from_slice(&out[rows.start * self.out_width()..rows.end * self.out_width()]);
            }
        }
        outputs
    }

    fn run(&self, way: &Way) -> Vec<Vec<f32>> {
        self.run_spoiled(way, &|_, _, _, _| {})
    }

    /// Request `r` alone, its `n` tokens in one step, on one thread.
    fn alone(&self, isa: Isa, r: usize, n: usize) -> Vec<f32> {
        let way = Way { isa, threads: 1, block_size: 16, steps: vec![vec![(r, n)]] };
        self.run(&way).swap_remove(r)
    }

    /// What the cache keeps of one token's values in one head.
    fn stored(&self, values: &[f32]) -> Vec<f64> {
        let top = values.iter().fold(0.0f32, |top, x| top.max(x.abs()));
        let of = |&x: &f32| match self.dtype {
            KvDtype::F32 => f64::from(x),
            KvDtype::F16 => f16::from_f32(x).to_f64(),
            KvDtype::BF16 => bf16::from_f32(x).to_f64(),
            KvDtype::I8 => f64::from((x * (127.0 / top)).round_ties_even()) * f64::from(top / 127.0),
            KvDtype::E4M3 => f64::from(e4m3_to_f32(f32_to_e4m3(x * (448.0 / top)))) * f64::from(top / 448.0),
        };
        values.iter().map(of).collect()
    }

    /// Head `h` of the row at `position` of request `r` in double precision.
    fn reference(&self, r: usize, position: usize, h: usize) -> Vec<f64> {
        let (d, scale) = (self.spec.head_dim, f64::from(self.attend_spec().scale));
        let first = self.spec.window.map_or(0, |w| (position + 1).saturating_sub(w));
        let kv = |what| -> Vec<Vec<f64>> {
            let token = |t| (0..d).map(|i| value(r, t, what, h / self.group * d + i)).collect::<Vec<_>>();
            (first..=position).map(|t| self.stored(&token(t))).collect()
        };
        let keys = kv(What::K);
        let values = if self.spec.values == Values::Own { kv(What::V) } else { keys.clone() };
        let score = |key: &Vec<f64>| -> f64 {
            key.iter().enumerate().map(|(i, k)| f64::from(value(r, position, What::Q, h * d + i)) * k).sum()
        };
        let bent = |s: f64| self.softcap.map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh());
        let scores: Vec<f64> = keys.iter().map(|key| bent(score(key) * scale)).collect();
        let sink = if self.sinks { h as f64 / 2.0 } else { f64::NEG_INFINITY };
        let top = scores.iter().copied().fold(sink, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
        let sum = weights.iter().sum::<f64>() + (sink - top).exp();
        let of_column = |i: usize| values.iter().zip(&weights).map(|(v, w)| w * v[i]).sum::<f64>() / sum;
        (0..self.spec.value_dim()).map(of_column).collect()
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() && !a.is_nan())
}

fn model(heads: usize, group: usize, head_dim: usize, window: Option<usize>, dtype: KvDtype) -> Model {
    let spec = KvSpec { num_kv_heads: heads, head_dim, values: Values::Own, window };
    Model { spec, group, dtype, softcap: None, sinks: false }
}

/// Keys of which the first columns are values.
fn latent(heads: usize, group: usize, dims: (usize, usize), window: Option<usize>, dtype: KvDtype) -> Model {
    let mut model = model(heads, group, dims.0, window, dtype);
    model.spec.values = Values::OfKeys(dims.1);
    model
}

#[test]
fn outputs_are_near_double_precision() {
    let mut worst = 0.0f64;
    let models = [
        (3, 3, 64, None),
        (1, 1, 8, None),
        (2, 2, 16, Some(1)),
        (1, 8, 32, Some(100)),
        (1, 5, 80, None),
        (2, 1, 96, Some(300)),
        (1, 4, 128, None),
        (1, 2, 256, None),
        (2, 3, 6, Some(7)),
        (1, 7, 20, None),
        (1, 1, 1, None),
    ]
    .map(|(heads, group, dim, window)| model(heads, group, dim, window, KvDtype::F32));
    let latents = [
        (1, 16, (576, 512), None),
        (1, 3, (40, 32), Some(300)),
        (2, 2, (20, 13), Some(7)),
        (1, 1, (9, 9), None),
        (1, 5, (33, 1), None),
    ]
    .map(|(heads, group, dims, window)| latent(heads, group, dims, window, KvDtype::F32));
    for model in models.into_iter().chain(latents) {
        for dtype in KvDtype::ALL {
            let (mut model, n) = (Model { dtype, ..model }, 530);
            model.sinks = model.spec.num_kv_heads == 2;
            model.softcap = (model.group == 2).then_some(1.5);
            let got = model.alone(Isa::detect(), 0, n);
            let dim = model.spec.value_dim();
            for position in (0..n).step_by(53).chain([255, 256, n - 1]) {
                for h in 0..model.spec.num_kv_heads * model.group {
                    let got = &got[position * model.out_width() + h * dim..][..dim];
                    for (got, expected) in got.iter().zip(model.reference(0, position, h)) {
                        let error = (f64::from(*got) - expected).abs();
                        worst = worst.max(error);
                        assert!(error < 2e-5, "{model:?} position {position} head {h}: {got} {expected}");
                    }
                }
            }
        }
    }
    println!("largest difference from double precision: {worst:.1e}");
}

#[test]
fn eight_bits_stay_near_single_precision() {
    // Half a step of the largest value: of 127 ones, and from 416 to 448.
    for (dtype, half_step) in [(KvDtype::I8, 1.0 / 254.0), (KvDtype::E4M3, 16.0 / 448.0)] {
        let mut worst = 0.0f32;
        for (heads, group, dim, window) in [(3, 3, 64, None), (1, 4, 128, None), (2, 1, 80, Some(70)), (1, 2, 6, None)]
        {
            let model = |dtype| model(heads, group, dim, window, dtype).alone(Isa::detect(), 0, 530);
            for (a, b) in model(dtype).iter().zip(model(KvDtype::F32)) {
                worst = worst.max((a - b).abs());
            }
        }
        println!("largest difference of {dtype} from single precision: {worst:.1e}");
        // From V, and twice as much from what K's steps do to the weights.
        assert!(worst > 0.0 && worst < 3.0 * half_step, "{dtype}: {worst}");
    }
}

#[test]
fn values_of_any_size_keep_their_bits_under_a_scale() {
    for (dtype, columns) in
        [KvDtype::I8, KvDtype::E4M3].into_iter().flat_map(|dtype| [(dtype, None), (dtype, Some(13))])
    {
        let model = columns.map_or(model(2, 2, 20, None, dtype), |columns| latent(2, 2, (20, columns), None, dtype));
        let way = Way { isa: Isa::detect(), threads: 1, block_size: 16, steps: vec![vec![(0, 40)]] };
        // What are keys too cannot grow without a change of the weights, where a query sees more than its own token.
        let alike = if columns.is_some() { model.out_width() } else { 40 * model.out_width() };
        let expected = model.run(&way).swap_remove(0);
        for factor in [1e-25f32, 1e-6, 1e6, 1e25].map(|factor| 2f32.powi(factor.log2() as i32)) {
            let grow = |values: &mut [f32]| values.iter_mut().for_each(|value| *value *= factor);
            let spoil = |_, _, k: &mut [f32], v: &mut [f32]| if columns.is_some() { grow(k) } else { grow(v) };
            let got: Vec<f32> = model.run_spoiled(&way, &spoil)[0].iter().map(|value| value / factor).collect();
            assert!(same_bits(&got[..alike], &expected[..alike]), "{dtype} {columns:?} {factor}");
        }
    }
}

/// Dimensions in use, and some that fill no whole vector.
fn dims() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![8, 16, 32, 64, 80, 96, 128, 256, 1, 6, 20, 33])
}

fn models() -> impl Strategy<Value = Model> {
    let window = prop_oneof![Just(None), (1usize..300).prop_map(Some)];
    let dtype = prop::sample::select(KvDtype::ALL.to_vec());
    let softcap = prop_oneof![Just(None), Just(Some(2.0f32))];
    let columns = prop_oneof![Just(None), (0.0f64..1.0).prop_map(Some)];
    (1usize..4, 1usize..14, dims(), columns, window, dtype, softcap, any::<bool>()).prop_map(
        |(heads, group, dim, columns, window, dtype, softcap, sinks)| {
            let model = match columns {
                None => model(heads, group, dim, window, dtype),
                Some(part) => latent(heads, group, (dim, 1 + (dim as f64 * part) as usize), window, dtype),
            };
            Model { softcap, sinks, ..model }
        },
    )
}

/// Cuts requests of the given lengths into chunks and mixes them into steps, from a list of random numbers.
fn mix(lengths: &[usize], dice: &[usize]) -> Vec<Vec<(usize, usize)>> {
    let (mut left, mut dice, mut steps) = (lengths.to_vec(), dice.iter().cycle(), Vec::new());
    let mut roll = |n: usize| dice.next().unwrap() % n;
    while left.iter().any(|&n| n > 0) {
        let mut step = Vec::new();
        for (r, left) in left.iter_mut().enumerate() {
            if *left == 0 || roll(4) == 0 {
                continue;
            }
            // One token, a few, or many.
            let most = [1, 5, 40, 400][roll(4)];
            let n = (roll(most) + 1).min(*left);
            *left -= n;
            step.push((r, n));
        }
        if roll(2) == 0 {
            step.reverse();
        }
        if !step.is_empty() {
            steps.push(step);
        }
    }
    steps
}

fn ways(max_tokens: usize) -> impl Strategy<Value = (Vec<usize>, Way)> {
    let lengths = prop::collection::vec(1..max_tokens, 1..4);
    let dice = prop::collection::vec(0usize..10_000, 97);
    (lengths, dice, 1usize..5, prop::sample::select(vec![8usize, 16, 24, 32, 64])).prop_map(
        |(lengths, dice, threads, block_size)| {
            let steps = mix(&lengths, &dice);
            (lengths, Way { isa: Isa::detect(), threads, block_size, steps })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_row_has_the_same_bits_in_any_batch_chunking_block_size_and_team(model in models(), (lengths, way) in ways(600)) {
        for (r, got) in model.run(&way).iter().enumerate() {
            prop_assert!(same_bits(got, &model.alone(way.isa, r, lengths[r])), "request {r}");
        }
    }

    #[test]
    fn every_isa_has_the_bits_of_the_scalar_kernel(model in models(), (_, way) in ways(80), long in 0usize..2) {
        let mut way = way;
        // Some requests reach into a second partition.
        if long == 1 && model.spec.head_dim <= 64 && model.group < 4 {
            way.steps.insert(0, vec![(0, 250)]);
        }
        let expected = model.run(&Way { isa: Isa::Scalar, ..way.clone() });
        for isa in Isa::available() {
            let got = model.run(&Way { isa, ..way.clone() });
            prop_assert!(got.iter().zip(&expected).all(|(a, b)| same_bits(a, b)), "{isa}");
        }
    }
}

#[test]
fn a_long_decode_is_shared_by_partitions_and_keeps_its_bits() {
    let models = [None, Some(400)].map(|window| model(2, 3, 64, window, KvDtype::F16));
    let eight_bits = [KvDtype::I8, KvDtype::E4M3].map(|dtype| latent(1, 16, (72, 64), None, dtype));
    for model in models.into_iter().chain(eight_bits) {
        let expected = model.alone(Isa::detect(), 0, 1300);
        for threads in [1, 2, 3, 8] {
            let steps = std::iter::once(vec![(0, 1290)]).chain((0..10).map(|_| vec![(0, 1)])).collect();
            let got = model.run(&Way { isa: Isa::detect(), threads, block_size: 16, steps });
            assert!(same_bits(&got[0], &expected), "{threads} threads, {model:?}");
        }
    }
}

#[test]
fn a_nan_stays_in_its_request_and_behind_its_position() {
    for window in [None, Some(20)] {
        for (dtype, columns) in KvDtype::ALL.into_iter().flat_map(|dtype| [(dtype, None), (dtype, Some(13))]) {
            let model = match columns {
                None => model(2, 2, 20, window, dtype),
                Some(columns) => latent(2, 2, (20, columns), window, dtype),
            };
            let way = |steps| Way { isa: Isa::detect(), threads: 2, block_size: 8, steps };
            let spoil = |r, position, k: &mut [f32], v: &mut [f32]| {
                if r == 1 && position == 37 {
                    k.fill(f32::NAN);
                    v.fill(f32::INFINITY);
                }
            };
            let mixed = way(vec![vec![(0, 30), (1, 60), (2, 9)], vec![(2, 20), (1, 1), (0, 1)]]);
            let got = model.run_spoiled(&mixed, &spoil);
            for (r, n) in [(0, 31), (2, 29)] {
                assert!(same_bits(&got[r], &model.alone(Isa::detect(), r, n)), "request {r}");
            }
            let (before, behind) = got[1].split_at(37 * model.out_width());
            assert!(same_bits(before, &model.alone(Isa::detect(), 1, 37)));
            let seen = window.unwrap_or(usize::MAX).min(24);
            let (seeing, past) = behind.split_at(seen * model.out_width());
            assert!(seeing.iter().all(|x| x.is_nan()), "a visible NaN must show");
            assert!(past.iter().all(|x| !x.is_nan()));
            assert_eq!(past.is_empty(), window.is_none());
        }
    }
}

#[test]
fn requests_without_rows_and_empty_batches_write_nothing() {
    let model = model(1, 2, 8, None, KvDtype::F32);
    let way = Way {
        isa: Isa::detect(),
        threads: 2,
        block_size: 8,
        steps: vec![vec![], vec![(0, 0), (1, 3)], vec![(1, 1), (0, 0)]],
    };
    let got = model.run(&way);
    assert!(got[0].is_empty() && same_bits(&got[1], &model.alone(Isa::detect(), 1, 4)));
}

#[test]
fn zeroed_blocks_hold_zeros_in_every_layer_and_others_stay() {
    for dtype in KvDtype::ALL {
        let model = model(2, 1, 6, None, dtype);
        let mut cache = KvCache::new(3, &model.spec, 5, 16, dtype).unwrap();
        cache.memory.bytes_mut().fill(1);
        cache.zero(&[3, 1]);
        for (layer, block) in (0..3).flat_map(|layer| (0..5).map(move |block| (layer, block))) {
            let mut bytes = cache.shape.places_of(layer, block).flat_map(|place| &cache.memory()[place]);
            let expected = u8::from(![1, 3].contains(&block));
            assert!(bytes.all(|&b| b == expected), "block {block} of layer {layer}, {dtype}");
        }
    }
}
