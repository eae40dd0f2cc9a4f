//! Every operation at several group sizes and lengths.

use nxd_collectives::share_of;
use proptest::prelude::*;

use crate::{LENGTHS, SIZES, bits, run_well, values};

/// The promised order, written out.
fn summed(size: usize, len: usize) -> Vec<f32> {
    let all: Vec<_> = (0..size).map(|rank| values(rank, len)).collect();
    (0..len).map(|i| all[1..].iter().fold(all[0][i], |sum, rank| sum + rank[i])).collect()
}

#[test]
fn all_reduce_adds_in_rank_order_to_the_bit() {
    for (size, len) in SIZES.into_iter().flat_map(|size| LENGTHS.map(|len| (size, len))) {
        let expected = bits(&summed(size, len));
        let sums = run_well(size, |group| {
            // Arrival in another order each round must not show.
            (0..4)
                .map(|round| {
                    let mut sum = values(group.rank(), len);
                    for _ in 0..(group.rank() + round) % size {
                        std::thread::yield_now();
                    }
                    group.all_reduce_sum(&mut sum).unwrap();
                    bits(&sum)
                })
                .collect::<Vec<_>>()
        });
        for sum in sums.iter().flatten() {
            assert!(*sum == expected, "{size} ranks, {len} values");
        }
    }
}

#[test]
fn the_test_values_would_show_another_order_of_sums() {
    let [a, b, c] = [0, 1, 2].map(|rank| values(rank, 1001));
    let other: Vec<f32> = (0..1001).map(|i| a[i] + (b[i] + c[i])).collect();
    assert_ne!(bits(&summed(3, 1001)), bits(&other));
}

#[test]
fn a_sum_of_minus_zeros_keeps_its_sign() {
    for sum in run_well(3, |group| {
        let mut sum = [-0.0];
        group.all_reduce_sum(&mut sum).unwrap();
        sum[0].to_bits()
    }) {
        assert_eq!(sum, (-0f32).to_bits());
    }
}

#[test]
fn reduce_scatter_gives_each_rank_its_share_of_the_sums() {
    for (size, len) in SIZES.into_iter().flat_map(|size| LENGTHS.map(|len| (size, len))) {
        let expected = summed(size, len);
        let parts = run_well(size, |group| {
            let mut part = vec![0.0; group.share(len).len()];
            group.reduce_scatter_sum(&values(group.rank(), len), &mut part).unwrap();
            part
        });
        assert_eq!(bits(&parts.concat()), bits(&expected), "{size} ranks, {len} values");
    }
}

#[test]
fn all_gather_lays_the_parts_out_in_rank_order() {
    for (size, len) in SIZES.into_iter().flat_map(|size| LENGTHS.map(|len| (size, len))) {
        let expected: Vec<u16> = (0..len).map(|i| (i * 7) as u16).collect();
        for whole in run_well(size, |group| {
            let mut whole = vec![0; len];
            group.all_gather(&expected[group.share(len)], &mut whole).unwrap();
            whole
        }) {
            assert!(whole == expected, "{size} ranks, {len} values");
        }
    }
}

#[test]
fn all_to_all_transposes_the_pieces() {
    for (size, len) in SIZES.into_iter().flat_map(|size| LENGTHS.map(|len| (size, len))) {
        let outgoing = |rank: usize| -> Vec<u64> { (0..len).map(|i| (rank * len + i) as u64).collect() };
        let received = run_well(size, |group| {
            let mut incoming = vec![0; group.share(len).len() * size];
            group.all_to_all(&outgoing(group.rank()), &mut incoming).unwrap();
            incoming
        });
        for (rank, incoming) in received.into_iter().enumerate() {
            let expected: Vec<u64> =
                (0..size).flat_map(|from| outgoing(from)[share_of(len, rank, size)].to_vec()).collect();
            assert!(incoming == expected, "{size} ranks, {len} values");
        }
    }
}

#[test]
fn broadcast_gives_everybody_the_roots_values() {
    for (size, len) in SIZES.into_iter().flat_map(|size| LENGTHS.map(|len| (size, len))) {
        for copies in run_well(size, |group| {
            (0..size)
                .map(|root| {
                    let mut copy = values(group.rank(), len);
                    group.broadcast(&mut copy, root).unwrap();
                    bits(&copy)
                })
                .collect::<Vec<_>>()
        }) {
            let expected: Vec<_> = (0..size).map(|root| bits(&values(root, len))).collect();
            assert!(copies == expected, "{size} ranks, {len} values");
        }
    }
}

#[test]
fn messages_go_round_a_ring_in_order() {
    for size in SIZES {
        run_well(size, |group| {
            let (next, previous) = ((group.rank() + 1) % size, (group.rank() + size - 1) % size);
            for round in 0..200u32 {
                group.send(&[group.rank() as u32, round], next).unwrap();
                let mut got = [0; 2];
                group.recv(&mut got, previous).unwrap();
                assert_eq!(got, [previous as u32, round]);
            }
            // Leaving ends the group, also for ranks that still talk to others.
            group.barrier().unwrap();
        });
    }
}

#[test]
fn nobody_leaves_a_barrier_before_the_last_one_comes() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    for size in SIZES {
        let arrived = AtomicUsize::new(0);
        run_well(size, |group| {
            for round in 1..=100 {
                arrived.fetch_add(1, Ordering::Relaxed);
                group.barrier().unwrap();
                assert!(arrived.load(Ordering::Relaxed) >= round * size);
            }
        });
    }
}

#[test]
fn a_rank_that_comes_late_finds_the_others_asleep_and_wakes_them() {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let mut sums = run_well(3, |group| {
        if group.rank() == 2 {
            // Not a synchronisation: any length is right, this one is long enough for the others to fall asleep.
            let _ = told.lock().unwrap().recv_timeout(std::time::Duration::from_millis(30));
        }
        let mut sum = [group.rank() as f32];
        group.all_reduce_sum(&mut sum).unwrap();
        sum[0]
    });
    drop(tell);
    sums.dedup();
    assert_eq!(bits(&sums), bits(&[3.0]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn shares_cut_a_length_without_gap_or_overlap(len in 0usize..10_000, size in 1usize..100) {
        let shares: Vec<_> = (0..size).map(|rank| share_of(len, rank, size)).collect();
        prop_assert_eq!((shares[0].start, shares[size - 1].end), (0, len));
        prop_assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
        prop_assert!(shares.iter().all(|share| share.len() == len / size || share.len() == len.div_ceil(size)));
    }

    /// Any sequence of operations, so that buffers of one meet leftovers of another.
    #[test]
    fn operations_may_follow_each_other_in_any_order(
        size in 1usize..6,
        steps in prop::collection::vec((0usize..5, 0usize..300), 1..40),
    ) {
        run_well(size, |group| for &(kind, len) in &steps {
            let (own, expected) = (values(group.rank(), len), summed(size, len));
            let share = group.share(len);
            let mut whole = own.clone();
            match kind {
                0 => group.all_reduce_sum(&mut whole).unwrap(),
                1 => {
                    let mut part = vec![0.0; share.len()];
                    group.reduce_scatter_sum(&own, &mut part).unwrap();
                    group.all_gather(&part, &mut whole).unwrap();
                }
                2 => {
                    whole.copy_from_slice(&expected);
                    if group.rank() != len % size { whole.fill(0.0) }
                    group.broadcast(&mut whole, len % size).unwrap();
                }
                3 => group.all_gather(&expected[share], &mut whole).unwrap(),
                _ => {
                    group.barrier().unwrap();
                    whole.copy_from_slice(&expected);
                }
            }
            assert_eq!(bits(&whole), bits(&expected));
        });
    }
}
