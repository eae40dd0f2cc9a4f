//! Tests of the block manager.

use super::*;
use nxd_ops::KvSpec;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A manager with a group for each window, `num_blocks` blocks of `block_size` tokens each.
fn manager(windows: &[Option<usize>], num_blocks: usize, block_size: usize) -> BlockManager {
    BlockManager::new(&info(windows, num_blocks, block_size))
}

fn info(windows: &[Option<usize>], num_blocks: usize, block_size: usize) -> ModelInfo {
    let spec = |&window: &Option<usize>| (KvSpec { num_kv_heads: 1, head_dim: 8, window }, num_blocks);
    ModelInfo {
        vocab_size: 1,
        hidden_size: 8,
        max_model_len: num_blocks * block_size,
        block_size,
        kv_groups: windows.iter().map(spec).collect(),
        kv_token_bytes: vec![0; windows.len()],
        weights_bytes: 0,
        kv_bytes: 0,
        kernels: Vec::new(),
        kv_dtype: String::new(),
        rope_lens_differ_from: None,
    }
}

/// Checks that each block is free or in one table, and that tables cover what the next row sees.
fn check(manager: &BlockManager, requests: &[(BlockTables, usize)]) {
    for (group, pool) in manager.pools.iter().enumerate() {
        let mut seen = BTreeSet::new();
        for (tables, computed) in requests {
            let table = &tables.groups[group];
            assert!(table.blocks.iter().all(|b| seen.insert(*b)), "a block has two owners");
            let oldest = pool.window.map_or(0, |window| (computed + 1).saturating_sub(window));
            assert!(table.first_block * manager.block_size <= oldest, "the next row sees a block that went back");
            assert!(table.end() * manager.block_size >= *computed, "computed tokens have no block");
        }
        assert!(pool.free.iter().all(|b| seen.insert(*b)), "a block in use is free");
        assert_eq!(seen.len(), pool.num_blocks, "a block is lost");
    }
}

#[test]
fn a_window_group_keeps_what_the_next_row_sees() {
    let mut blocks = manager(&[None, Some(20)], 8, 16);
    let mut tables = blocks.tables();
    assert_eq!(blocks.grow(&mut tables, 50), 50);
    blocks.trim(&mut tables, 50);
    let batch = blocks.batch_tables([&tables].into_iter());
    assert_eq!((batch[0].blocks.len(), batch[0].first_blocks[0]), (4, 0));
    // Position 50 sees 31..=50: block 0 is behind it, block 1 is not.
    assert_eq!((batch[1].blocks.len(), batch[1].first_blocks[0]), (3, 1));
    assert_eq!((batch[0].zero_blocks.len(), batch[1].zero_blocks.len()), (4, 4));
    blocks.trim(&mut tables, 51);
    let batch = blocks.batch_tables([&tables].into_iter());
    assert_eq!((batch[1].blocks.len(), batch[1].first_blocks[0]), (2, 2));
    assert!(
        batch.iter().all(|group| group.zero_blocks.is_empty()),
        "a block is zeroed once for each time it is handed out"
    );
    blocks.release(&mut tables);
    assert_eq!(blocks.usage(), (0, 16));
}

#[test]
fn growing_goes_as_far_as_the_blocks_do() {
    let mut blocks = manager(&[None], 3, 8);
    let (mut first, mut second) = (blocks.tables(), blocks.tables());
    assert_eq!(blocks.grow(&mut first, 9), 9);
    assert_eq!(blocks.grow(&mut second, 20), 8);
    assert_eq!(blocks.grow(&mut first, 17), 16);
    assert_eq!(never_fits(&info(&[None], 3, 8), 24), None);
    assert_eq!(never_fits(&info(&[None], 3, 8), 25), Some((4, 3)));
    blocks.release(&mut second);
    assert!(blocks.fits_now(8, 8, 0));
    assert!(!blocks.fits_now(9, 9, 0));
    assert!(!blocks.fits_now(8, 8, 1));
}

proptest! {
    #[test]
    fn no_block_is_lost_or_shared(
        window in 1usize..40,
        block_size in 1usize..9,
        actions in proptest::collection::vec((0usize..4, 1usize..30, any::<bool>()), 1..60),
    ) {
        let mut blocks = manager(&[None, Some(window)], 12, block_size);
        let mut requests: Vec<_> = (0..4).map(|_| (blocks.tables(), 0)).collect();
        for (index, tokens, release) in actions {
            let (tables, computed) = &mut requests[index];
            if release {
                blocks.release(tables);
                *computed = 0;
            } else {
                let covered = blocks.grow(tables, *computed + tokens);
                prop_assert!(covered <= *computed + tokens);
                *computed = covered.max(*computed);
                blocks.trim(tables, *computed);
            }
            check(&blocks, &requests);
        }
        for (tables, _) in &mut requests {
            blocks.release(tables);
        }
        prop_assert_eq!(blocks.usage().0, 0);
    }

    #[test]
    fn a_request_that_can_fit_alone_can_run_to_its_end(
        window in 1usize..40,
        block_size in 1usize..9,
        len in 1usize..120,
        chunk in 1usize..40,
    ) {
        let mut blocks = manager(&[None, Some(window)], len.div_ceil(block_size), block_size);
        prop_assert_eq!(never_fits(&info(&[None, Some(window)], len.div_ceil(block_size), block_size), len), None);
        let most = most_blocks(Some(window), len, 1, block_size);
        blocks.pools[1].free.truncate(most);
        blocks.pools[1].num_blocks = most;
        let (mut tables, mut computed) = (blocks.tables(), 0);
        while computed < len {
            let covered = blocks.grow(&mut tables, (computed + chunk).min(len));
            prop_assert!(covered > computed, "stuck at {} of {}", computed, len);
            computed = covered;
            blocks.trim(&mut tables, computed);
        }
    }
}
