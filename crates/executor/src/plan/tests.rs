//! Plans of golden models and of made-up caches.

use super::*;
use crate::CpuExecutor;
use crate::executor::Executor;
use crate::kv::KvOptions;
use nxd_cpu::KvDtype;
use nxd_models::LoadMode;
use nxd_ops::{KvSpec, Values};

const MIB: usize = 1 << 20;

fn golden(name: &str, mode: LoadMode) -> Model {
    Model::open(&nxd_testkit::goldens().join(name), mode).unwrap()
}

fn options(ranks: usize) -> ExecutorOptions {
    let kv = KvOptions { budget_bytes: KvOptions::WHAT_IS_LEFT, max_num_seqs: 4, ..ExecutorOptions::default().kv };
    ExecutorOptions { tensor_parallel_size: ranks, threads: 2, kv, ..ExecutorOptions::default() }
}

fn memory(bytes: usize) -> Memory {
    Memory { available_bytes: Some(bytes as u64), ..Memory::default() }
}

/// Needs of a cache alone: no weights, no work space.
fn cache(groups: &[(Option<usize>, usize)]) -> MemoryNeeds {
    let group = |&(window, token_bytes): &(Option<usize>, usize)| KvGroup {
        spec: KvSpec { num_kv_heads: 1, head_dim: 8, values: Values::Own, window },
        layers: 1,
        token_bytes,
    };
    let mut needs = MemoryNeeds::of(&golden("llama-mha-default", LoadMode::Mmap), &options(1)).unwrap();
    (needs.kv_groups, needs.weights_bytes, needs.model_len) = (groups.iter().map(group).collect(), 0, 4096);
    needs.workspace = Workspace::default();
    needs
}

#[test]
fn what_is_planned_is_what_is_bound() {
    for name in [
        "llama-gguf-q8_0",
        "gemma3-local-global",
        "qwen3-tied",
        "llama-gqa-llama3-rope-tied",
        "mistral-head-dim-bf16",
        "gpt-oss-bf16",
    ] {
        for ranks in [1, 2, 3] {
            let (model, options) = (golden(name, LoadMode::Mmap), options(ranks));
            let plan = plan(&model, &options, &memory(256 * MIB)).unwrap();
            let kv = KvOptions { budget_bytes: plan.kv_budget_bytes, ..options.kv };
            let executor = CpuExecutor::load(&model, &ExecutorOptions { kv, ..options }).unwrap();
            let info = executor.info();
            assert_eq!(plan.needs.packed_bytes.iter().sum::<usize>(), info.weights_bytes, "{name} on {ranks}");
            assert_eq!(plan.kv_bytes, info.kv_bytes, "{name} on {ranks}");
            let blocks: Vec<usize> = info.kv_groups.iter().map(|group| group.1).collect();
            assert_eq!((&plan.num_blocks, plan.max_model_len), (&blocks, info.max_model_len), "{name} on {ranks}");
            let stored: usize = model.checkpoint().tensors().map(|tensor| tensor.bytes()).sum();
            assert!(plan.needs.stored_bytes <= stored && plan.needs.stored_bytes * 2 > stored, "{name}");
        }
    }
}

#[test]
fn copies_count_where_files_are_not_mapped() {
    let of = |mode, ranks| MemoryNeeds::of(&golden("llama-mha-default", mode), &options(ranks)).unwrap();
    let (mapped, read) = (of(LoadMode::Mmap, 2), of(LoadMode::Read, 2));
    assert_eq!(read.packed_bytes, mapped.packed_bytes);
    assert!(read.weights_bytes >= 2 * read.stored_bytes && mapped.weights_bytes < read.weights_bytes);
}

#[test]
fn work_space_grows_with_rows_ranks_context_and_threads() {
    let model = golden("llama-mha-default", LoadMode::Mmap);
    let bytes = |options: &ExecutorOptions, context| MemoryNeeds::of(&model, options).unwrap().workspace_bytes(context);
    let (base, mut more) = (options(1), options(1));
    // 512 rows of at least six tensors of 64 columns, and a tile of logits.
    let least = 4 * (512 * 6 * 64 + 4 * 512);
    assert!((least..8 * least).contains(&bytes(&base, 128)), "{} of {least}", bytes(&base, 128));
    more.kv.max_num_batched_tokens = 4096;
    assert!(bytes(&more, 128) > 4 * bytes(&base, 128));
    assert!(bytes(&options(2), 128) > bytes(&base, 128));
    assert!(bytes(&base, 1 << 20) > bytes(&base, 128));
    more.threads = 64;
    assert!(bytes(&more, 1 << 20) > 2 * bytes(&base, 1 << 20));
}

#[test]
fn the_cache_gets_four_fifths_of_what_is_left_and_never_more_than_all_requests_use() {
    let kv = options(1).kv;
    let needs = cache(&[(None, 1024)]);
    // 4 requests of 4096 tokens take 16 MiB.
    let plan = needs.plan(&kv, &memory(15 * MIB)).unwrap();
    assert_eq!((plan.kv_budget_bytes, plan.kv_bytes), (12 * MIB, 12 * MIB));
    assert_eq!((plan.requests(4096), plan.requests(1024), plan.kv_tokens()), (3, 4, 12 * 1024));
    let plan = needs.plan(&kv, &memory(1 << 40)).unwrap();
    assert_eq!((plan.kv_bytes, plan.requests(4096)), (16 * MIB, 4));
    let given = KvOptions { budget_bytes: 6 * MIB, ..kv };
    let plan = needs.plan(&given, &memory(MIB)).unwrap();
    assert_eq!((plan.kv_bytes, plan.fits()), (6 * MIB, false), "what is given is given");
    assert_eq!(needs.plan(&kv, &Memory::default()).unwrap().kv_bytes, 16 * MIB);
}

#[test]
fn a_window_holds_what_stays_visible_and_a_step() {
    let needs = cache(&[(None, 64), (Some(100), 1024)]);
    let kv = options(1).kv;
    let plan = needs.plan(&kv, &memory(1 << 30)).unwrap();
    // 100 + 512 + 16 tokens in blocks of 16, for each of four requests.
    assert_eq!(plan.num_blocks, [4 * 256, 4 * 40]);
    let plan = needs.plan(&kv, &memory(2 * MIB)).unwrap();
    assert!(plan.num_blocks[1] <= 4 * 40 && plan.kv_bytes <= plan.kv_budget_bytes, "{plan:?}");
    assert_eq!(plan.to_string().matches(" + ").count(), 3, "{plan}");
}

#[test]
fn what_does_not_fit_says_what_does() {
    let needs = cache(&[(None, 1024)]);
    let kv = KvOptions { max_model_len: Some(100_000), ..options(1).kv };
    let error = needs.plan(&kv, &memory(10 * MIB)).unwrap_err();
    assert!(error.is_memory());
    let text = error.to_string();
    assert!(text.contains("8.0 MiB holds a request of 8,192 tokens, --max-model-len asks for 100,000"), "{text}");
    let error = needs.plan(&KvOptions { max_model_len: None, ..kv }, &memory(4096)).unwrap_err();
    assert!(error.is_memory() && error.to_string().contains("the 4.0 KiB of memory"), "{error}");
    // Without a wish, as much context as there is.
    let plan = needs.plan(&KvOptions { max_model_len: None, ..kv }, &memory(MIB)).unwrap();
    assert_eq!(plan.max_model_len, 816);
}

#[test]
fn grouped_heads_and_scales_make_the_bytes_of_a_token() {
    let mut manifest = Manifest::new(Mesh::tensor(2));
    let mut params = Params::new(&mut manifest);
    for window in [None, Some(7), None] {
        params.kv_layer(KvSpec { num_kv_heads: 3, head_dim: 20, values: Values::Own, window });
    }
    let bytes = |dtype| KvGroup::all(&manifest, dtype).iter().map(|g| g.token_bytes).collect::<Vec<_>>();
    // 2 ranks × layers × 3 heads × (K of 20 and V of 24 values, rows of which are whole vectors).
    assert_eq!(bytes(KvDtype::F16), [2 * 2 * 3 * 44 * 2, 2 * 3 * 44 * 2]);
    for dtype in [KvDtype::I8, KvDtype::E4M3] {
        assert_eq!(bytes(dtype), [2 * 2 * 3 * (44 + 8), 2 * 3 * (44 + 8)]);
    }
}

#[test]
fn sizes_beyond_any_memory_are_refused_and_not_counted_round() {
    let mut manifest = Manifest::new(Mesh::tensor(64));
    let spec = KvSpec {
        num_kv_heads: usize::MAX / 3,
        head_dim: usize::MAX - 1,
        values: Values::Own,
        window: Some(usize::MAX),
    };
    Params::new(&mut manifest).kv_layer(spec);
    let groups = KvGroup::all(&manifest, KvDtype::I8);
    assert_eq!(groups[0].token_bytes, usize::MAX);
    let needs = MemoryNeeds { kv_groups: groups, ..cache(&[]) };
    let most = KvOptions { max_num_batched_tokens: usize::MAX, max_num_seqs: usize::MAX, ..options(1).kv };
    for max_model_len in [None, Some(1), Some(usize::MAX)] {
        let error = needs.plan(&KvOptions { max_model_len, ..most }, &memory(1 << 40)).unwrap_err();
        assert!(matches!(error, ExecutorError::Memory { .. }), "{error}");
    }
    let mut hostile = options(1);
    (hostile.kv, hostile.threads) = (most, usize::MAX);
    let needs = MemoryNeeds::of(&golden("qwen2-tied", LoadMode::Mmap), &hostile).unwrap();
    assert_eq!(needs.workspace_bytes(usize::MAX), usize::MAX);
}

#[test]
fn sizes_and_numbers_are_written_for_people() {
    for (bytes, text) in [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (4096, "4.0 KiB"),
        (1536, "1.5 KiB"),
        (98 << 20, "98 MiB"),
        (1 << 30, "1.0 GiB"),
        ((1 << 30) - 1, "1.0 GiB"),
        (u64::MAX, "16384.0 PiB"),
    ] {
        assert_eq!(Bytes(bytes).to_string(), text);
    }
    for (number, text) in [(0, "0"), (999, "999"), (16384, "16,384"), (1_000_000, "1,000,000")] {
        assert_eq!(Count(number).to_string(), text);
    }
    let plan = cache(&[(None, 1 << 17)]).plan(&options(1).kv, &memory(8 << 30)).unwrap();
    let text = plan.to_string();
    assert_eq!(text, "weights 0 bytes + KV 2.0 GiB (16,384 tokens = 1,024 blocks × 16) + work 0 bytes of 8.0 GiB");
}
