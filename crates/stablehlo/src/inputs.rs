//! A ragged batch as rectangles: which requests share a program, and what it is given.

use crate::bucket::{ForwardBucket, round_up};
use crate::host::HostArray;
use crate::tracer::{KvShape, first_block_name, frequencies_name, slots_name, table_name};
use nxd_ops::{Batch, Capture, GroupTables, Manifest};
use std::collections::BTreeMap;

/// Arrays of a step by the names of a program's arguments.
pub type Inputs = BTreeMap<String, HostArray>;

/// Some requests of a batch, padded to a bucket.
#[derive(Clone, Debug)]
pub struct Rectangle {
    /// The shape of the program.
    pub bucket: ForwardBucket,
    /// What the program is given.
    pub inputs: Inputs,
    /// For each row of the program the batch's row; `None` for padding.
    pub rows: Vec<Option<usize>>,
    /// Rows of the program's hidden result and the index of each among the batch's wanted rows.
    pub wanted: Vec<(usize, usize)>,
}

/// Least rows of a prompt chunk: shorter ones are padded, so that few programs serve all.
const LEAST_TOKENS: usize = 16;
/// Least tokens that a block table reaches over.
const LEAST_CONTEXT: usize = 128;

/// Cuts `batch` into rectangles of at most `max_rows` rows, or one request each. Requests of like length go together.
///
/// The rectangles run one after the other. They may share blocks that earlier steps filled, but none may read what another writes.
pub fn rectangles(batch: &Batch, manifest: &Manifest, kv: &KvShape, max_rows: usize) -> Vec<Rectangle> {
    let mut by_tokens: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for request in 0..batch.num_requests() {
        match batch.rows(request).len() {
            0 => {}
            1 => by_tokens.entry(1).or_default().push(request),
            tokens => by_tokens.entry(round_up(tokens, LEAST_TOKENS)).or_default().push(request),
        }
    }
    let mut rectangles = Vec::new();
    for (tokens, requests) in by_tokens {
        for requests in requests.chunks((max_rows / tokens).max(1)) {
            rectangles.push(rectangle(batch, manifest, kv, tokens, requests));
        }
    }
    rectangles
}

fn rectangle(batch: &Batch, manifest: &Manifest, kv: &KvShape, tokens: usize, requests: &[usize]) -> Rectangle {
    let count = round_up(requests.len(), 1);
    let least_blocks = LEAST_CONTEXT.div_ceil(kv.block_size);
    let entries = |tables: &GroupTables, r: usize| (tables.starts[r + 1] - tables.starts[r]) as usize;
    let longest = |tables: &GroupTables| requests.iter().map(|&r| entries(tables, r)).max().unwrap_or_default();
    let blocks: Vec<usize> = batch.groups.iter().map(|t| round_up(longest(t), least_blocks)).collect();

    let mut rows = vec![None; count * tokens];
    for (place, &r) in requests.iter().enumerate() {
        for (i, row) in batch.rows(r).enumerate() {
            rows[place * tokens + i] = Some(row);
        }
    }
    let (wanted_rows, wanted) = wanted(batch, &rows, count, tokens);
    let mut inputs = Inputs::new();
    let of_rows = |of: &dyn Fn(usize) -> u32| rows.iter().map(|row| row.map_or(0, of) as i32).collect::<Vec<_>>();
    let mut give = |name: String, array: HostArray| inputs.insert(name, array);
    give("tokens".to_owned(), HostArray::i32s(&[rows.len()], &of_rows(&|row| batch.token_ids[row])));
    give("positions".to_owned(), HostArray::i32s(&[rows.len()], &of_rows(&|row| batch.positions[row])));
    give("wanted".to_owned(), HostArray::i32s(&[wanted_rows.len()], &wanted_rows));
    // A request's length behind its last row; 0 for one of padding, for which no key exists.
    let mut lengths = vec![0; count];
    for (length, &r) in lengths.iter_mut().zip(requests) {
        *length = batch.rows(r).next_back().map_or(0, |row| batch.positions[row] as i32 + 1);
    }
    give("lengths".to_owned(), HostArray::i32s(&[count], &lengths));
    for (group, tables) in batch.groups.iter().enumerate() {
        let filler = kv.num_blocks[group];
        let (slots, table, first) =
            group_inputs(batch, tables, requests, &rows, tokens, (blocks[group], filler, kv.block_size));
        give(slots_name(group), HostArray::i32s(&[rows.len()], &slots));
        give(table_name(group), HostArray::i32s(&[count, blocks[group]], &table));
        give(first_block_name(group), HostArray::i32s(&[count], &first));
    }
    for (i, rope) in manifest.ropes().iter().enumerate().filter(|(_, rope)| rope.depends_on_length()) {
        let half = rope.rotary_dim / 2;
        let mut frequencies = vec![0.0; count * half];
        for (out, &r) in frequencies.chunks_exact_mut(half.max(1)).zip(requests) {
            out.copy_from_slice(&rope.frequencies(batch.rope_lens[r]).0);
        }
        give(frequencies_name(i), HostArray::f32s(&[count, half], &frequencies));
    }
    let capture = batch.capture == Capture::Layers;
    let bucket = ForwardBucket { requests: count, tokens, blocks, wanted: wanted_rows.len(), capture };
    Rectangle { bucket, inputs, rows, wanted }
}

/// The rows that the program selects, and where the batch's wanted rows are among them.
///
/// Mostly a request wants its last row or none, so a program selects a row for each request; one that is asked for more gives all rows.
fn wanted(batch: &Batch, rows: &[Option<usize>], count: usize, tokens: usize) -> (Vec<i32>, Vec<(usize, usize)>) {
    let index_of = |row: usize| u32::try_from(row).ok().and_then(|row| batch.wanted.binary_search(&row).ok());
    let found: Vec<(usize, usize)> =
        rows.iter().enumerate().filter_map(|(at, row)| Some((at, index_of((*row)?)?))).collect();
    let one_each = found.windows(2).all(|pair| pair[0].0 / tokens != pair[1].0 / tokens);
    if !one_each {
        return ((0..rows.len() as i32).collect(), found);
    }
    let mut selected = vec![0; count];
    for (at, _) in &found {
        selected[at / tokens] = *at as i32;
    }
    (selected, found.into_iter().map(|(at, index)| (at / tokens, index)).collect())
}

/// Slot of each row, block table and first block of each request. `(blocks, filler, block_size)`: entries of a table, the block
/// that padding writes to and reads from, and tokens a block.
fn group_inputs(
    batch: &Batch,
    tables: &GroupTables,
    requests: &[usize],
    rows: &[Option<usize>],
    tokens: usize,
    (blocks, filler, block_size): (usize, usize, usize),
) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    let count = rows.len() / tokens;
    let mut slots = vec![(filler * block_size) as i32; rows.len()];
    let mut table = vec![filler as i32; count * blocks];
    let mut first = vec![0; count];
    for (place, &r) in requests.iter().enumerate() {
        let own = &tables.blocks[tables.starts[r] as usize..tables.starts[r + 1] as usize];
        for (out, &block) in table[place * blocks..][..blocks].iter_mut().zip(own) {
            *out = block as i32;
        }
        first[place] = tables.first_blocks[r] as i32;
        for (i, row) in batch.rows(r).enumerate() {
            let position = batch.positions[row] as usize;
            let block = own[position / block_size - tables.first_blocks[r] as usize] as usize;
            slots[place * tokens + i] = (block * block_size + position % block_size) as i32;
        }
    }
    (slots, table, first)
}
