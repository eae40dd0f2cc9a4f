//! Random numbers and running sums.

use super::plugin::run;
use super::{PLAIN, floats, row};
use crate::host::HostArray;
use crate::inputs::Inputs;
use crate::program::{ProgramBuilder, ResultKey};
use crate::record::{Element, Order};
use crate::sampling::{SampleBucket, inputs, philox, reach};
use crate::target::Spread;
use nxd_ops::philox::uniform;
use nxd_ops::{SamplingParams, SamplingRow};
use proptest::prelude::*;

const COUNT: usize = 64;

/// Philox of many counters and keys, in the graph.
fn words_of(arguments: &[[u32; 6]; COUNT]) -> Vec<[u32; 4]> {
    let mut b = ProgramBuilder::new();
    let names = ["a", "b", "c", "d", "k", "l"];
    let [a, b1, c, d, k, l] = names.map(|name| b.input(name, &[COUNT], Element::U32));
    let words = philox::philox(&mut b.rec, [a, b1, c, d], [k, l]);
    for (name, word) in ["0", "1", "2", "3"].into_iter().zip(&words) {
        b.result(ResultKey::Named(name), word);
    }
    let column = |i: usize| arguments.iter().map(|words| words[i]).collect::<Vec<_>>();
    let given: Inputs =
        names.iter().enumerate().map(|(i, name)| ((*name).to_owned(), HostArray::u32s(&[COUNT], &column(i)))).collect();
    let results = run(&b.finish("philox", 1, Spread::Replicas), &given);
    let words = ["0", "1", "2", "3"].map(|name| {
        let data = &results[name].data;
        data.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect::<Vec<u32>>()
    });
    (0..COUNT).map(|i| [0, 1, 2, 3].map(|word| words[word][i])).collect()
}

#[test]
fn known_answers_of_random123() {
    let mut arguments = [[0; 6]; COUNT];
    arguments[1] = [u32::MAX; 6];
    arguments[2] = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344, 0xa409_3822, 0x299f_31d0];
    let words = words_of(&arguments);
    assert_eq!(words[0], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(words[1], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    assert_eq!(words[2], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_counter_and_key(arguments in prop::array::uniform32(prop::array::uniform6(any::<u32>()))) {
        let mut all = [[0; 6]; COUNT];
        all[..32].copy_from_slice(&arguments);
        for (found, [a, b, c, d, k, l]) in words_of(&all).into_iter().zip(all) {
            prop_assert_eq!(found, nxd_ops::philox::philox([a, b, c, d], [k, l]));
        }
    }

    #[test]
    fn numbers_are_the_upper_bits_of_the_eager_devices(
        requests in prop::collection::vec((any::<u64>(), any::<u32>(), any::<u32>()), 8),
    ) {
        let rows: Vec<SamplingRow> = requests
            .iter()
            .map(|&(seed, position, choice)| {
                SamplingRow { position, choice, ..row(SamplingParams { seed, ..PLAIN }) }
            })
            .collect();
        let bucket = SampleBucket::of(&rows, false);
        let mut b = ProgramBuilder::new();
        let number = philox::record(&mut b, bucket.rows);
        b.result(ResultKey::Named("number"), &number);
        let results = run(&b.finish("number", 1, Spread::Replicas), &inputs(&bucket, &rows));
        for (found, (seed, position, choice)) in floats(&results["number"]).into_iter().zip(requests) {
            let exact = uniform(seed, choice, position, nxd_ops::philox::Purpose::Draw);
            let expected = (exact * f64::from(1 << 24)).floor() / f64::from(1 << 24);
            prop_assert_eq!(f64::from(found).to_bits(), expected.to_bits());
        }
    }
}

/// Where the running sum of `weights` is in `order` to a part of the whole, and the whole.
fn reached(weights: &[f32], fractions: &[f32], order: Order) -> (Vec<i32>, Vec<f32>) {
    let (rows, len) = (fractions.len(), weights.len() / fractions.len());
    let mut b = ProgramBuilder::new();
    let x = b.input("weights", &[rows, len], Element::F32);
    let fraction = b.input("fraction", &[rows], Element::F32);
    let place = reach::reach(&mut b.rec, &x, &fraction, order);
    let sum = reach::sum(&mut b.rec, &x);
    b.result(ResultKey::Named("place"), &place);
    b.result(ResultKey::Named("sum"), &sum);
    let given = Inputs::from([
        ("weights".to_owned(), HostArray::f32s(&[rows, len], weights)),
        ("fraction".to_owned(), HostArray::f32s(&[rows], fractions)),
    ]);
    let results = run(&b.finish("reach", 1, Spread::Replicas), &given);
    (super::ints(&results["place"]), floats(&results["sum"]))
}

#[test]
fn the_whole_of_a_large_vocabulary_is_summed_without_drift() {
    let weights: Vec<f32> = (0..262_144_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 * 1e-7).collect();
    let exact: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    for i in 0..20 {
        let fraction = i as f32 / 20.0;
        let (place, sum) = reached(&weights, &[fraction], Order::Gt);
        assert!((f64::from(sum[0]) / exact - 1.0).abs() < 1e-6, "{} instead of {exact}", sum[0]);
        let before: f64 = weights[..place[0] as usize].iter().map(|&weight| f64::from(weight)).sum();
        let up_to = before + f64::from(weights[place[0] as usize]);
        let target = exact * f64::from(fraction);
        assert!(before <= target + 2e-6 * exact && up_to > target - 2e-6 * exact, "{before} {target} {up_to}");
    }
}

#[test]
fn only_places_with_a_weight_are_reached() {
    for len in [1, 2, 3, 7, 64, 65, 1000] {
        for only in [0, len / 2, len - 1] {
            let mut weights = vec![0.0; 2 * len];
            weights[only] = 0.25;
            for (fractions, order) in [([0.0, 0.5], Order::Gt), ([1.0, 1.0], Order::Gt), ([-1.0, 0.0], Order::Ge)] {
                let (places, sums) = reached(&weights, &fractions, order);
                // The second row has no weights, so any place within it will do; it is the first.
                assert_eq!(places, [only as i32, 0], "{len} {fractions:?}");
                assert_eq!(sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>(), [0.25, 0.0].map(f32::to_bits));
            }
        }
    }
}

#[test]
fn at_least_and_more_than_differ_on_a_border() {
    let weights = [0.25, 0.25, 0.0, 0.5];
    assert_eq!(reached(&weights, &[0.5], Order::Gt).0, [3]);
    assert_eq!(reached(&weights, &[0.5], Order::Ge).0, [1]);
    assert_eq!(reached(&weights, &[0.25], Order::Gt).0, [1]);
    assert_eq!(reached(&weights, &[0.25], Order::Ge).0, [0]);
}
