//! Bytes under scales: what is refused, and that shards find the scales of the whole weight.

use nxd_ops::{
    Axis, Dim, Format, LocalWeight, Role, Scales, Segment, ShardLayout, Sharding, SourceError, StoredWeight, WeightSpec,
};
use nxd_testkit::assert_bits;
use proptest::prelude::*;
use std::sync::Arc;

fn stored(format: Format, shape: [usize; 2], scales: Option<Scales>) -> StoredWeight {
    let bytes = shape[0] * format.row_bytes(shape[1]).unwrap();
    let data: Vec<u8> = (0..bytes).map(|i| (i * 29 % 120) as u8).collect();
    StoredWeight { origin: "file: tensor `w`".into(), format, shape, data: data.into(), order: None, scales }
}

fn cut(stored: StoredWeight, sharding: Sharding, rank: usize) -> Result<LocalWeight, SourceError> {
    LocalWeight::new(&WeightSpec { name: "w".into(), role: Role::Matrix, shape: stored.shape, sharding }, stored, rank)
}

fn refused(format: Format, scales: Scales) -> String {
    cut(stored(format, [5, 64], Some(scales)), Sharding::Replicated, 0).unwrap_err().to_string()
}

#[test]
fn scales_that_do_not_fit_are_refused_by_name() {
    let of_rows = |scales: &[f32]| Scales::of_rows(scales.to_vec());
    assert_eq!(
        refused(Format::E4M3, Scales { rows: 128, cols: 32, values: vec![1.0; 3].into() }),
        "file: tensor `w` has 3 scales for groups of 128 rows and 32 columns, its shape needs 2"
    );
    assert_eq!(
        refused(Format::I8, of_rows(&[1.0, 2.0, f32::NAN, 1.0, 1.0])),
        "file: tensor `w` has the scale NaN at 2, allowed are magnitudes below 1.2676506e30"
    );
    assert_eq!(
        refused(Format::F16, Scales::of_tensor(1.0)),
        "file: tensor `w` is stored as F16 with scales of their own, which is not supported"
    );
    assert_eq!(
        refused(Format::I8, Scales { rows: 128, cols: 32, values: vec![1.0; 2].into() }),
        "file: tensor `w` is stored as I8 with several scales a row, which is not supported"
    );
    assert_eq!(
        refused(Format::E5M2, Scales { rows: 0, cols: 1, values: Arc::new([]) }),
        "file: tensor `w` is stored as F8_E5M2 with scales for groups of nothing, which is not supported"
    );
}

#[test]
fn rows_that_are_stored_in_another_order_keep_the_scales_that_they_were_stored_with() {
    let scales = Scales::of_rows(vec![1.0, 2.0, 4.0]);
    let in_order = cut(stored(Format::I8, [3, 4], Some(scales.clone())), Sharding::Replicated, 0).unwrap().to_f32();
    let mut permuted = stored(Format::I8, [3, 4], Some(scales));
    permuted.order = Some(vec![2, 0, 1].into());
    let permuted = cut(permuted, Sharding::Replicated, 0).unwrap().to_f32();
    assert_bits(&permuted, &[&in_order[8..], &in_order[..8]].concat(), "rows");
}

proptest! {
    #[test]
    fn a_shard_has_the_values_of_the_whole_weight(
        format in prop::sample::select(vec![Format::E4M3, Format::E5M2]),
        shape in [1usize..300, 1usize..300],
        group in [1usize..150, 1usize..150],
        dim in prop::sample::select(vec![Dim::Rows, Dim::Columns]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 4),
    ) {
        let [rows, cols] = group;
        let count = shape[0].div_ceil(rows) * shape[1].div_ceil(cols);
        let scales = Scales { rows, cols, values: (1..=count).map(|i| i as f32 / 7.0).collect() };
        let stored = stored(format, shape, Some(scales));
        let whole = cut(stored.clone(), Sharding::Replicated, 0).unwrap().to_f32();
        // Two pieces with something left out between them, and padding.
        let len = if dim == Dim::Rows { shape[0] } else { shape[1] };
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
        at.sort_unstable();
        let range = |i: usize| Segment::Range { start: at[i], len: at[i + 1] - at[i] };
        let part: Vec<_> = [range(0), range(2), Segment::Zeros { len: 3 }].into_iter().filter(|s| !s.is_empty()).collect();
        let kept: Vec<usize> = (at[0]..at[1]).chain(at[2]..at[3]).collect();
        let layout = Arc::new(ShardLayout::new(vec![part]));
        let local = cut(stored, Sharding::Split { dim, axis: Axis::Tensor, layout }, 0).unwrap();
        let lens = local.scale_runs().iter().map(|run| run.len);
        prop_assert_eq!(lens.sum::<usize>(), local.cols());
        let values = local.to_f32();
        if dim == Dim::Rows {
            let mut expected: Vec<f32> = kept.iter().flat_map(|row| &whole[row * shape[1]..][..shape[1]]).copied().collect();
            expected.resize((kept.len() + 3) * shape[1], 0.0);
            assert_bits(&values, &expected, "rows");
        } else if !kept.is_empty() {
            let row = |row: &[f32]| kept.iter().map(|&col| row[col]).collect::<Vec<_>>();
            assert_bits(&values, &whole.chunks(shape[1]).flat_map(row).collect::<Vec<_>>(), "columns");
        }
    }
}
