//! The libnrt binding against a mock library (`mock`).

mod mock;

use std::fs;
use std::num::NonZeroU32;

use nxd_runtime::neuron::{
    Core, Dtype, Model, Neff, NeuronError, Nrt, Placement, Runtime, Status, Target, Tensor, TensorInfo, TensorSet,
    Usage, World,
};

use self::mock::Mock;

/// A NEFF with the mock's program as its content.
fn neff(logical_core: u8, program: &str) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[0] = 2;
    bytes[8..16].copy_from_slice(&1024_u64.to_le_bytes());
    bytes[16..24].copy_from_slice(&(program.len() as u64).to_le_bytes());
    bytes[24] = 2;
    bytes[220..226].copy_from_slice(b"decode");
    bytes[552] = logical_core;
    bytes.extend(program.as_bytes());
    bytes
}

/// `sum = a + b` over four floats, and `cache = cache × 2` in place.
const PROGRAM: &str = "in a 10 16 2 2\nin b 10 16 2 2\nin cache 10 8 2\nout sum 10 16 2 2\nout cache_out 10 8 2\n\
                       add a b sum\nscale cache 2.0 cache_out\n";

fn load(core: &Core, program: &str) -> Result<Model, NeuronError> {
    Model::load(core, &Neff::parse(&neff(2, program)).unwrap(), World::SINGLE)
}

fn tensor(core: &Core, name: &str, values: &[f32]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = Tensor::allocate(core, Placement::Device, name, data.len()).unwrap();
    tensor.write(0, &data).unwrap();
    tensor
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let mut data = vec![0; tensor.bytes()];
    tensor.read(0, &mut data).unwrap();
    data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn set<'a>(core: &Core, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> TensorSet {
    let mut set = TensorSet::new(core).unwrap();
    for (name, tensor) in tensors {
        set.insert(name, tensor).unwrap();
    }
    set
}

/// The sets that [`PROGRAM`] wants.
fn sets(core: &Core) -> (TensorSet, TensorSet) {
    let (a, b) = (tensor(core, "a", &[1.0, 2.0, 3.0, 4.0]), tensor(core, "b", &[10.0, 20.0, 30.0, 40.0]));
    let (cache, sum) = (tensor(core, "cache", &[1.0, -1.0]), tensor(core, "sum", &[0.0; 4]));
    (set(core, [("a", &a), ("b", &b), ("cache", &cache)]), set(core, [("sum", &sum), ("cache_out", &cache)]))
}

#[test]
fn a_program_runs_and_updates_its_state_in_place() {
    let mock = Mock::new();
    let nrt = mock.nrt();
    assert_eq!((nrt.total_cores().unwrap(), nrt.version().unwrap().to_string()), (64, "2.31.24.0".to_owned()));
    assert_eq!(nrt.version().unwrap().git_hash.len(), 64, "a field that is full has no terminator");
    let instance = nrt.instance().unwrap();
    assert_eq!((instance.target(), instance.revision.as_str()), (Some(Target::Trn2), "r1"));

    let runtime = Runtime::start(&nrt).unwrap();
    assert_eq!((runtime.core_count(), runtime.logical_core()), (4, Some(2)));
    let core = runtime.core(3).unwrap();
    let model = load(&core, PROGRAM).unwrap();
    let cache =
        TensorInfo { name: "cache_out".to_owned(), usage: Usage::Output, bytes: 8, dtype: Dtype::F32, shape: vec![2] };
    assert_eq!(model.outputs().last(), Some(&cache));
    assert_eq!(model.inputs().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["a", "b", "cache"]);

    let before = core.memory().unwrap();
    let (inputs, mut outputs) = sets(&core);
    assert_eq!(core.memory().unwrap().used_bytes, before.used_bytes + 3 * 16 + 8);
    assert_eq!(before.limit_bytes, 1 << 20);
    for step in 1..=3 {
        model.execute(&inputs, &mut outputs).unwrap();
        let doubled = 2_f32.powi(step);
        assert_eq!(values(inputs.get("cache").unwrap()), [doubled, -doubled]);
    }
    assert_eq!(values(outputs.get("sum").unwrap()), [11.0, 22.0, 33.0, 44.0]);
    model.execute_repeat(&inputs, &mut outputs, NonZeroU32::new(2).unwrap()).unwrap();
    assert_eq!(values(inputs.get("cache").unwrap()), [32.0, -32.0]);
}

#[test]
fn closing_comes_last_whatever_is_dropped_first() {
    let mock = Mock::new();
    let runtime = Runtime::start(&mock.nrt()).unwrap();
    let core = runtime.core(0).unwrap();
    let (mut inputs, outputs) = sets(&core);
    // The one that was there has no other owner than the set.
    inputs.insert("b", &tensor(&core, "another b", &[0.0; 4])).unwrap();
    let slice = inputs.get("a").unwrap().slice("half", 8, 8).unwrap();
    let model = load(&core, PROGRAM).unwrap();
    drop(runtime);
    drop(core);
    drop(outputs);
    drop(model);
    drop(inputs);
    assert_eq!(mock.count("nrt_unload"), 1);
    assert!(mock.log().iter().all(|line| !line.starts_with("nrt_close")), "a slice still holds the runtime");
    drop(slice);
    let log = mock.log();
    assert_eq!(log.last().unwrap(), "nrt_close models=0 tensors=0 sets=0 infos=0");
    // The set goes before its tensors, the slice before what it lies in.
    for wrong in ["freed twice", "freed after its source", "destroyed after its tensor"] {
        assert_eq!(mock.count(wrong), 0, "{wrong}: {log:?}");
    }
    assert_eq!(mock.count("nrt_tensor_free"), 6);
}

#[test]
fn a_process_has_one_runtime_at_a_time() {
    let mock = Mock::new();
    let nrt = mock.nrt();
    let runtime = Runtime::start(&nrt).unwrap();
    let error = Runtime::start(&nrt).unwrap_err();
    assert!(matches!(error, NeuronError::AlreadyRunning), "{error}");
    assert_eq!(mock.count("nrt_init"), 1, "the second start must not reach the library");
    drop(runtime);
    mock.fail("nrt_init", 1005);
    let error = Runtime::start(&nrt).unwrap_err().to_string();
    assert!(error.starts_with("`nrt_init` of the runtime: another model or process holds the core"), "{error}");
    mock.heal();
    assert!(Runtime::start(&nrt).is_ok(), "a start that failed does not block the next");
}

#[test]
fn every_status_becomes_its_error() {
    let mock = Mock::new();
    let core = mock.core();
    let model = load(&core, PROGRAM).unwrap();
    let (inputs, mut outputs) = sets(&core);
    let known = [
        (1, Status::Failure),
        (2, Status::Invalid),
        (3, Status::InvalidHandle),
        (4, Status::Resource),
        (5, Status::Timeout),
        (6, Status::Hardware),
        (7, Status::QueueFull),
        (9, Status::NotEnoughCores),
        (10, Status::UnsupportedNeffVersion),
        (11, Status::HostMemory),
        (13, Status::Uninitialized),
        (14, Status::Closed),
        (15, Status::QueueEmpty),
        (101, Status::UnitUnrecoverable),
        (1002, Status::BadInput),
        (1003, Status::NumericalError),
        (1004, Status::CompletedWithError),
        (1005, Status::CoreBusy),
        (1006, Status::OutOfBounds),
        (1100, Status::CollectivePending),
        (1200, Status::CollectiveStuck),
        (1201, Status::MemoryUncorrectable),
        (1202, Status::CoreParity),
        (1203, Status::DmaAborted),
        (1204, Status::NotificationOverflow),
        (1205, Status::MemoryRepairable),
        (1206, Status::NetworkProxy),
        (4711, Status::Unknown(4711)),
        (-3, Status::Unknown(-3)),
    ];
    for (code, expected) in known {
        mock.fail("nrt_execute", code);
        let error = model.execute(&inputs, &mut outputs).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("`nrt_execute` of model `decode`: ") && text.contains(&code.to_string()), "{text}");
        let NeuronError::Call { status, function: "nrt_execute", .. } = error else { panic!("{error:?}") };
        assert_eq!(status, expected, "{code}");
    }
    mock.fail("nrt_execute", 1006);
    let text = model.execute(&inputs, &mut outputs).unwrap_err().to_string();
    let expected = "`nrt_execute` of model `decode`: an indirect access is out of bounds (NRT_EXEC_OOB, 1006); clamp the \
                    indices of gathers and scatters in the graph";
    assert_eq!(text, expected);
}

#[test]
fn every_call_reports_its_failure() {
    let mock = Mock::new();
    let nrt = mock.nrt();
    for function in ["nrt_get_version", "nrt_get_instance_info", "nrt_get_total_vnc_count"] {
        mock.fail(function, 6);
        let errors = [nrt.version().err(), nrt.instance().err(), nrt.total_cores().err()];
        let texts: Vec<String> = errors.into_iter().flatten().map(|error| error.to_string()).collect();
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert!(texts[0].starts_with(&format!("`{function}` of ")), "{texts:?}");
        mock.heal();
    }
    let core = Runtime::start(&nrt).unwrap().core(0).unwrap();
    let one = tensor(&core, "one", &[1.0]);
    let mut filled = set(&core, [("one", &one)]);
    type Call<'a> = &'a dyn Fn(&mut TensorSet) -> Result<(), NeuronError>;
    let calls: [(&str, Call<'_>); 8] = [
        ("nrt_load", &|_| load(&core, PROGRAM).map(drop)),
        ("nrt_get_model_tensor_info", &|_| load(&core, PROGRAM).map(drop)),
        ("nrt_tensor_allocate", &|_| Tensor::allocate(&core, Placement::Host, "t", 4).map(drop)),
        ("nrt_tensor_allocate_slice", &|_| one.slice("t", 0, 2).map(drop)),
        ("nrt_tensor_read", &|_| one.read(0, &mut [0; 4])),
        ("nrt_tensor_write", &|_| one.write(0, &[0; 4])),
        ("nrt_add_tensor_to_tensor_set", &|filled| filled.insert("two", &one)),
        ("nrt_get_vnc_memory_stats", &|_| core.memory().map(drop)),
    ];
    for (function, call) in calls {
        mock.fail(function, 4);
        let error = call(&mut filled).unwrap_err();
        assert!(matches!(&error, NeuronError::Call { status: Status::Resource, .. }), "{error:?}");
        assert!(error.to_string().starts_with(&format!("`{function}` of ")), "{error}");
        mock.heal();
        call(&mut filled).unwrap();
    }
    drop((filled, one, core));
    assert_eq!(mock.log().last().unwrap(), "nrt_close models=0 tensors=0 sets=0 infos=0", "failures leak nothing");
}

#[test]
fn a_library_without_a_function_is_named_with_the_package() {
    for function in ["nrt_execute", "nrt_init"] {
        let mock = Mock::with(&[&format!("-DWITHOUT_{function}")]);
        let error = Nrt::open(mock.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("has no symbol `{function}`")), "{error}");
        assert!(error.contains("aws-neuronx-runtime-lib"), "{error}");
        assert_eq!(mock.log(), [""; 0], "nothing was called");
    }
}

#[test]
fn an_older_library_works_but_cannot_tell_its_memory() {
    let mock = Mock::with(&["-DOLD_NAMES"]);
    let core = mock.core();
    assert_eq!(core.runtime().core_count(), 4);
    let error = core.memory().unwrap_err().to_string();
    assert!(error.contains("has no `nrt_get_vnc_memory_stats`; update `aws-neuronx-runtime-lib`"), "{error}");
}

#[test]
fn a_missing_library_and_a_file_that_is_none_say_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libnrt.so.1");
    let missing = Nrt::open(&path).unwrap_err().to_string();
    fs::write(&path, "not a library").unwrap();
    let refused = Nrt::open(&path).unwrap_err().to_string();
    for (text, what) in [(missing, "no such file"), (refused, "cannot be loaded")] {
        assert!(text.contains(what) && text.contains("aws-neuronx-runtime-lib"), "{text}");
    }
}

#[test]
fn sets_that_do_not_fit_are_refused_before_the_call() {
    let mock = Mock::new();
    let core = mock.core();
    let model = load(&core, PROGRAM).unwrap();
    let (mut inputs, mut outputs) = sets(&core);
    let mut empty = TensorSet::new(&core).unwrap();
    let text = |result: Result<(), NeuronError>| result.unwrap_err().to_string();
    assert_eq!(
        text(model.execute(&empty, &mut outputs)),
        "model `decode` needs input `a` of 16 bytes, which the set lacks"
    );
    assert_eq!(
        text(model.execute(&inputs, &mut empty)),
        "model `decode` needs output `sum` of 16 bytes, which the set lacks"
    );
    let good = inputs.get("b").unwrap().clone();
    inputs.insert("b", &tensor(&core, "b", &[1.0])).unwrap();
    let short = "model `decode`: input `b` has 16 bytes, the one in the set has 4";
    assert_eq!(text(model.execute(&inputs, &mut outputs)), short);
    inputs.insert("b", &good).unwrap();
    outputs.insert("summ", &good).unwrap();
    assert_eq!(
        text(model.execute(&inputs, &mut outputs)),
        "model `decode` has no output `summ`; it has `sum`, `cache_out`"
    );
    assert_eq!(mock.count("nrt_execute"), 0);

    // A set that was good once is looked at again when it changed.
    let (mut inputs, mut outputs) = sets(&core);
    model.execute(&inputs, &mut outputs).unwrap();
    inputs.insert("a", &tensor(&core, "a", &[1.0])).unwrap();
    assert!(text(model.execute(&inputs, &mut outputs)).contains("input `a` has 16 bytes"));
    assert_eq!(mock.count("nrt_execute"), 1);
}

#[test]
fn a_part_outside_of_a_tensor_is_refused_before_the_call() {
    let mock = Mock::new();
    let core = mock.core();
    let whole = tensor(&core, "whole", &[1.0, 2.0, 3.0, 4.0]);
    let calls = mock.log().len();
    for (offset, length) in [(0, 17), (16, 1), (13, 4), (usize::MAX, 1), (usize::MAX, 0), (17, 0)] {
        let mut data = vec![0; length];
        let errors = [
            whole.read(offset, &mut data).unwrap_err(),
            whole.write(offset, &data).unwrap_err(),
            whole.slice("part", offset, length).unwrap_err(),
        ];
        for error in errors {
            let expected = format!("`whole` has 16 bytes; {length} bytes at offset {offset} do not lie in it");
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }
    whole.read(16, &mut []).unwrap();
    whole.write(3, &[]).unwrap();
    assert_eq!(mock.log().len(), calls, "none of them reached the library");

    let part = whole.slice("part", 4, 8).unwrap();
    part.write(4, &9_f32.to_le_bytes()).unwrap();
    assert_eq!((values(&part), values(&whole)), (vec![2.0, 9.0], vec![1.0, 2.0, 9.0, 4.0]));
    assert!(part.read(4, &mut [0; 8]).is_err(), "a slice ends where it ends");
}

#[test]
fn tensors_that_cannot_be_are_refused() {
    let mock = Mock::new();
    let core = mock.core();
    let allocate = |name: &str, bytes| Tensor::allocate(&core, Placement::Device, name, bytes).unwrap_err();
    assert_eq!(allocate("t", 0).to_string(), "tensor `t` of 0 bytes; leave it out");
    assert_eq!(allocate("a\0b", 4).to_string(), "tensor name \"a\\0b\" has a zero byte");
    assert!(allocate("", 4).to_string().contains("is empty"));
    assert!(allocate(&"n".repeat(256), 4).to_string().contains("is longer than 255 bytes"));
    assert_eq!(mock.count("nrt_tensor_allocate"), 0);
    assert!(matches!(allocate("t", usize::MAX), NeuronError::Call { status: Status::Resource, .. }));
    // Success that is none.
    let text = allocate("null", 4).to_string();
    assert!(text.starts_with("`nrt_tensor_allocate` of tensor `null` succeeded with a null handle"), "{text}");
    let text = allocate("short", 4).to_string();
    assert!(text.contains("tensor `short` succeeded with 3 bytes instead of 4"), "{text}");
}

#[test]
fn things_of_another_core_are_refused() {
    let mock = Mock::new();
    let runtime = Runtime::start(&mock.nrt()).unwrap();
    let (zero, one) = (runtime.core(0).unwrap(), runtime.core(1).unwrap());
    let mut mixed = TensorSet::new(&zero).unwrap();
    let text = mixed.insert("a", &tensor(&one, "a", &[1.0])).unwrap_err().to_string();
    assert_eq!(text, "tensor `a` belongs to core 1, the set to core 0 or another runtime; allocate it there");
    let model = load(&one, PROGRAM).unwrap();
    let (inputs, mut outputs) = sets(&zero);
    let text = model.execute(&inputs, &mut outputs).unwrap_err().to_string();
    assert!(text.starts_with("the set of inputs belongs to core 0, model `decode` to core 1"), "{text}");
    let text = runtime.core(4).unwrap_err().to_string();
    assert_eq!(text, "core 4 does not exist: this process has 4 (see `NEURON_RT_VISIBLE_CORES`)");
}

#[test]
fn a_description_that_lies_is_an_error_and_the_model_is_unloaded() {
    let mock = Mock::new();
    let core = mock.core();
    let cases = [
        ("count", "libnrt counts 18446744073709551615 tensors, more than the 65536 that are believed"),
        ("name", "the name of tensor 0 does not end within its 256 bytes"),
        ("bytes", "the name of tensor 0 is not UTF-8"),
        ("nameless", "tensor 0 has no name"),
        ("usage", "tensor `a` has usage 7, expected 0 or 1"),
        ("size", "tensor `a` has 18446744073709551615 bytes"),
        ("dimensions", "tensor `a` has 4294967295 dimensions"),
        ("shape", "tensor `a` has 2 dimensions and no shape"),
        ("twice", "input `a` is there twice"),
        ("null", "succeeded with a null pointer"),
    ];
    for (index, (kind, expected)) in cases.iter().enumerate() {
        let text = load(&core, &format!("{PROGRAM}hostile {kind}\n")).unwrap_err().to_string();
        assert!(text.contains("model `decode`") && text.contains(expected), "{kind}: {text}");
        assert_eq!(mock.count("nrt_unload"), index + 1, "{kind}");
    }
    drop(core);
    assert_eq!(mock.log().last().unwrap(), "nrt_close models=0 tensors=0 sets=0 infos=0");
}

#[test]
fn an_unbelievable_number_of_cores_closes_the_runtime_again() {
    for cores in ["0u", "4000000000u"] {
        let mock = Mock::with(&[&format!("-DVISIBLE_CORES={cores}")]);
        let error = Runtime::start(&mock.nrt()).unwrap_err().to_string();
        assert!(error.contains("`nrt_get_visible_vnc_count` of this process succeeded with "), "{error}");
        assert!(mock.log().last().unwrap().starts_with("nrt_close"));
    }
}

#[test]
fn a_neff_of_another_logical_core_size_does_not_reach_the_library() {
    let mock = Mock::new();
    let core = mock.core();
    let file = neff(1, PROGRAM);
    let text = Model::load(&core, &Neff::parse(&file).unwrap(), World::SINGLE).unwrap_err().to_string();
    let expected = "NEFF `decode` was compiled with `--lnc 1`, the runtime runs with `NEURON_LOGICAL_NC_CONFIG=2`";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(mock.count("nrt_load"), 0);
    let old = neff(0, PROGRAM);
    assert!(Model::load(&core, &Neff::parse(&old).unwrap(), World::SINGLE).is_ok(), "an older NEFF does not say");
}

#[test]
fn a_world_of_several_ranks_loads_with_collectives() {
    let mock = Mock::new();
    let core = mock.core();
    let file = neff(2, PROGRAM);
    let file = Neff::parse(&file).unwrap();
    let model = Model::load(&core, &file, World::new(1, 2).unwrap()).unwrap();
    assert_eq!((mock.count("nrt_load_collectives"), mock.count("rank 1 of 2"), mock.count("nrt_load")), (1, 1, 0));
    drop(model);
    Model::load(&core, &file, World::new(0, 1).unwrap()).unwrap();
    assert_eq!((mock.count("nrt_load_collectives"), mock.count("nrt_load")), (1, 1));
    for (rank, size) in [(2, 2), (0, 0)] {
        let text = World::new(rank, size).unwrap_err().to_string();
        assert!(text.starts_with(&format!("rank {rank} of {size}: ")), "{text}");
    }
}

#[test]
fn cores_work_at_the_same_time_from_their_threads() {
    let mock = Mock::new();
    let runtime = Runtime::start(&mock.nrt()).unwrap();
    std::thread::scope(|scope| {
        for index in 0..runtime.core_count() {
            let core = runtime.core(index).unwrap();
            scope.spawn(move || {
                let (inputs, mut outputs) = sets(&core);
                let scaled = tensor(&core, "a", &[f32::from(u8::try_from(index).unwrap()); 4]);
                let mut inputs = inputs;
                inputs.insert("a", &scaled).unwrap();
                let model = load(&core, PROGRAM).unwrap();
                for _ in 0..20 {
                    model.execute(&inputs, &mut outputs).unwrap();
                }
                let first = 10.0 + f32::from(u8::try_from(index).unwrap());
                assert_eq!(values(outputs.get("sum").unwrap())[0].to_bits(), first.to_bits());
            });
        }
    });
    drop(runtime);
    assert_eq!(mock.log().last().unwrap(), "nrt_close models=0 tensors=0 sets=0 infos=0");
}
