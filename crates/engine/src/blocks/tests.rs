//! Tests of the block manager.

use super::*;
use nxd_ops::{KvSpec, Values};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A manager with a group for each window, `num_blocks` blocks of `block_size` tokens each.
fn manager(windows: &[Option<usize>], num_blocks: usize, block_size: usize) -> BlockManager {
    BlockManager::new(&info(windows, num_blocks, block_size), true)
}

fn info(windows: &[Option<usize>], num_blocks: usize, block_size: usize) -> ModelInfo {
    let spec =
        |&window: &Option<usize>| (KvSpec { num_kv_heads: 1, head_dim: 8, values: Values::Own, window }, num_blocks);
    ModelInfo {
        vocab_size: 1,
        hidden_size: 8,
        max_model_len: num_blocks * block_size,
        block_size,
        kv_groups: windows.iter().map(spec).collect(),
        kv_token_bytes: vec![0; windows.len()],
        weights_bytes: 0,
        mixtures: Vec::new(),
        kv_bytes: 0,
        kernels: Vec::new(),
        rope_lens_differ_from: None,
        kv_dtype: "f32".into(),
    }
}

fn tables(manager: &BlockManager) -> BlockTables {
    manager.tables("", None, 0)
}

/// Checks that each block is free or in as many tables as it counts, and that tables cover what the next row sees.
fn check(manager: &BlockManager, requests: &[(BlockTables, usize)]) {
    for (group, pool) in manager.pools.iter().enumerate() {
        let mut holders: BTreeMap<u32, u32> = BTreeMap::new();
        for (tables, computed) in requests {
            let table = &tables.groups[group];
            table.blocks.iter().for_each(|&block| *holders.entry(block).or_default() += 1);
            let oldest = pool.window.map_or(0, |window| (computed + 1).saturating_sub(window));
            assert!(table.first_block * manager.block_size <= oldest, "the next row sees a block that went back");
            assert!(table.end() * manager.block_size >= *computed, "computed tokens have no block");
        }
        let pinned = pool.copies.iter().map(|&(source, _)| source);
        pinned.for_each(|block| *holders.entry(block).or_default() += 1);
        let free = pool.free();
        assert_eq!(free.len(), pool.num_free());
        for block in 0..pool.num_blocks() as u32 {
            let held = holders.get(&block).copied().unwrap_or(0);
            assert_eq!(pool.refs(block), held, "block {block} does not know who has it");
            assert_eq!(
                free.iter().filter(|&&b| b == block).count(),
                usize::from(held == 0),
                "block {block} of {free:?}"
            );
        }
    }
}

#[test]
fn a_window_group_keeps_what_the_next_row_sees() {
    let mut blocks = manager(&[None, Some(20)], 8, 16);
    let mut tables = tables(&blocks);
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
    let (mut first, mut second) = (tables(&blocks), tables(&blocks));
    assert_eq!(blocks.grow(&mut first, 9), 9);
    assert_eq!(blocks.grow(&mut second, 20), 8);
    assert_eq!(blocks.grow(&mut first, 17), 16);
    assert_eq!(never_fits(&info(&[None], 3, 8), 24), None);
    assert_eq!(never_fits(&info(&[None], 3, 8), 25), Some((4, 3)));
    blocks.release(&mut second);
    let nothing = tables(&blocks);
    assert!(blocks.fits_now(&nothing, 8, 8, 0));
    assert!(!blocks.fits_now(&nothing, 9, 9, 0));
    assert!(!blocks.fits_now(&nothing, 8, 8, 1));
}

#[test]
fn a_prefix_is_found_among_requests_of_one_salt_as_far_as_its_tokens_agree() {
    let mut blocks = manager(&[None], 8, 8);
    let tokens: Vec<u32> = (0..30).collect();
    let mut first = blocks.tables("a", None, 0);
    blocks.grow(&mut first, 30);
    blocks.publish(&mut first, &tokens, 30);
    let found = |blocks: &mut BlockManager, salt: &str, tokens: &[u32], most| {
        let mut tables = blocks.tables(salt, None, 0);
        let found = blocks.find(&mut tables, tokens, most);
        blocks.release(&mut tables);
        found
    };
    assert_eq!(found(&mut blocks, "a", &tokens, 29), 24);
    assert_eq!(found(&mut blocks, "a", &tokens, 23), 16);
    assert_eq!(found(&mut blocks, "b", &tokens, 29), 0);
    let mut other = tokens.clone();
    other[9] = 99;
    assert_eq!(found(&mut blocks, "a", &other, 29), 8);
    other[0] = 99;
    assert_eq!(found(&mut blocks, "a", &other, 29), 0, "what follows another token is another prefix");
    blocks.release(&mut first);
    assert_eq!(found(&mut blocks, "a", &tokens, 29), 24, "a free block is found until it is handed out");
    let mut greedy = tables(&blocks);
    blocks.grow(&mut greedy, 6 * 8);
    assert_eq!(found(&mut blocks, "a", &tokens, 29), 16, "the end of a prefix goes first");
    blocks.release(&mut greedy);
    assert_eq!(blocks.usage(), (0, 8));
}

#[test]
fn rotations_that_follow_the_length_part_prefixes() {
    let mut blocks = BlockManager::new(&ModelInfo { rope_lens_differ_from: Some(64), ..info(&[None], 8, 8) }, true);
    let tokens = [7; 17];
    let mut found = |rope_len: usize| {
        let mut tables = blocks.tables("", None, rope_len);
        let found = blocks.find(&mut tables, &tokens, 16);
        if found == 0 {
            blocks.grow(&mut tables, 16);
            blocks.publish(&mut tables, &tokens, 16);
        }
        blocks.release(&mut tables);
        found
    };
    assert_eq!([20, 64, 65, 66, 65].map(&mut found), [0, 16, 0, 0, 16]);
}

#[test]
fn a_window_group_needs_only_what_the_next_row_sees() {
    let mut blocks = manager(&[None, Some(9)], 8, 8);
    let tokens: Vec<u32> = (0..40).collect();
    let mut first = tables(&blocks);
    for end in [16, 32, 33] {
        blocks.grow(&mut first, end);
        blocks.publish(&mut first, &tokens, end);
        blocks.trim(&mut first, end);
    }
    // The window's first blocks are free, and are handed out before anything that is held.
    let mut other = tables(&blocks);
    while blocks.pools[1].num_free() > 0 {
        other.groups[1].blocks.extend(blocks.pools[1].take());
    }
    let mut second = tables(&blocks);
    assert_eq!(blocks.find(&mut second, &tokens, 39), 32);
    assert_eq!((second.groups[0].blocks.len(), second.groups[1].blocks.len(), second.groups[1].first_block), (4, 1, 3));
    assert_eq!(blocks.find(&mut tables(&blocks), &tokens, 31), 0, "its window has gone");
}

#[test]
fn siblings_share_full_blocks_and_get_a_copy_of_the_last_one() {
    let mut blocks = manager(&[None], 8, 8);
    let mut parent = tables(&blocks);
    blocks.grow(&mut parent, 20);
    blocks.batch_tables([&parent].into_iter());
    let mut sibling = blocks.fork(&parent, 19).unwrap();
    let (of_parent, own) = (&parent.groups[0].blocks, &sibling.groups[0].blocks);
    assert_eq!((&of_parent[..2], own.len()), (&own[..2], 3));
    let copy = (of_parent[2], own[2]);
    assert_ne!(copy.0, copy.1);
    // The parent's block is held until the copy is made.
    blocks.release(&mut parent);
    assert_eq!(blocks.usage().0, 4);
    let batch = blocks.batch_tables([&sibling].into_iter());
    assert_eq!((&batch[0].copy_blocks[..], batch[0].zero_blocks.len()), (&[copy][..], 0));
    assert_eq!(blocks.usage().0, 3);
    blocks.release(&mut sibling);
    assert_eq!(blocks.usage().0, 0);
}

#[test]
fn a_copy_whose_taker_went_back_is_not_made() {
    let mut blocks = manager(&[None], 3, 8);
    let mut parent = tables(&blocks);
    blocks.grow(&mut parent, 4);
    let mut sibling = blocks.fork(&parent, 3).unwrap();
    blocks.release(&mut sibling);
    let mut third = tables(&blocks);
    blocks.grow(&mut third, 16);
    let batch = blocks.batch_tables([&parent, &third].into_iter());
    assert_eq!((&batch[0].copy_blocks[..], batch[0].zero_blocks.len()), (&[][..], 3));
    check(&blocks, &[(parent, 4), (third, 16)]);
}

#[test]
fn what_is_not_sound_is_not_found() {
    let mut blocks = manager(&[None], 4, 8);
    let mut first = tables(&blocks);
    blocks.grow(&mut first, 16);
    blocks.publish(&mut first, &[1; 16], 16);
    assert_eq!(blocks.pools[0].num_known(), 2);
    blocks.forget(&first);
    blocks.release(&mut first);
    assert_eq!(blocks.find(&mut first, &[1; 17], 16), 0);
}

/// Something that happens to one of several requests.
#[derive(Clone, Debug)]
enum Action {
    Compute { request: usize, tokens: usize },
    Release(usize),
    Start { request: usize, prompt: usize },
    Fork { request: usize, from: usize },
    Batch,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0usize..4, 1usize..30).prop_map(|(request, tokens)| Action::Compute { request, tokens }),
        2 => (0usize..4).prop_map(Action::Release),
        3 => (0usize..4, 0usize..3).prop_map(|(request, prompt)| Action::Start { request, prompt }),
        1 => (0usize..4, 0usize..4).prop_map(|(request, from)| Action::Fork { request, from }),
        2 => Just(Action::Batch),
    ]
}

proptest! {
    #[test]
    fn no_block_is_lost_and_each_knows_who_has_it(
        window in 1usize..40,
        block_size in 1usize..9,
        actions in proptest::collection::vec(action(), 1..80),
    ) {
        let mut blocks = manager(&[None, Some(window)], 12, block_size);
        // Prompts that share beginnings of several lengths.
        let prompts: Vec<Vec<u32>> = (0..3).map(|p| (0..400).map(|i| u32::from(i >= 20 * (p + 1))).collect()).collect();
        let mut requests: Vec<_> = (0..4).map(|_| (tables(&blocks), 0)).collect();
        let mut prompt_of = [0; 4];
        for action in actions {
            match action {
                Action::Compute { request, tokens } => {
                    let (tables, computed) = &mut requests[request];
                    let covered = blocks.grow(tables, (*computed + tokens).min(400));
                    *computed = covered.max(*computed);
                    blocks.publish(tables, &prompts[prompt_of[request]], *computed);
                    blocks.trim(tables, *computed);
                }
                Action::Release(request) => {
                    blocks.release(&mut requests[request].0);
                    requests[request].1 = 0;
                }
                Action::Start { request, prompt } => {
                    blocks.release(&mut requests[request].0);
                    prompt_of[request] = prompt;
                    let mut tables = tables(&blocks);
                    let found = blocks.find(&mut tables, &prompts[prompt], 60);
                    prop_assert!(found <= 60 && found.is_multiple_of(block_size));
                    requests[request] = (tables, found);
                }
                Action::Fork { request, from } if request != from && requests[from].1 > 0 => {
                    let tokens = requests[from].1 - 1;
                    let parent = requests[from].0.clone();
                    if let Some(tables) = blocks.fork(&parent, tokens) {
                        blocks.release(&mut requests[request].0);
                        requests[request] = (tables, tokens);
                        prompt_of[request] = prompt_of[from];
                    }
                }
                Action::Fork { .. } => {}
                Action::Batch => {
                    blocks.batch_tables(requests.iter().map(|(tables, _)| tables));
                }
            }
            check(&blocks, &requests);
        }
        for (tables, computed) in &mut requests {
            blocks.release(tables);
            *computed = 0;
        }
        blocks.drop_copies();
        check(&blocks, &requests);
        prop_assert_eq!(blocks.usage().0, 0);
    }

    #[test]
    fn a_request_that_can_fit_alone_can_run_to_its_end(
        window in 1usize..40,
        block_size in 1usize..9,
        len in 1usize..120,
        chunk in 1usize..40,
    ) {
        let enough = len.div_ceil(block_size);
        prop_assert_eq!(never_fits(&info(&[None, Some(window)], enough, block_size), len), None);
        let most = blocks_of_one(Some(window), len, 1, block_size);
        let mut blocks = manager(&[None, Some(window)], enough, block_size);
        blocks.pools[1] = Pool::new(Some(window), most);
        let (mut tables, mut computed) = (tables(&blocks), 0);
        while computed < len {
            let covered = blocks.grow(&mut tables, (computed + chunk).min(len));
            prop_assert!(covered > computed, "stuck at {} of {}", computed, len);
            computed = covered;
            blocks.trim(&mut tables, computed);
        }
    }
}
