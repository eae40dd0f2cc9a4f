//! Tests of [`plan`]: what is set, what is kept, what is refused.

use std::collections::BTreeMap;

use super::*;

fn facts(target: Target) -> Facts {
    let compiler = PathBuf::from("/venv/bin/neuronx-cc");
    Facts { target: Some(target), compiler, free_port: 41234, pjrt_header: (0, 115) }
}

type Environment = BTreeMap<String, OsString>;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect()
}

fn planned(options: &Options, current: &Environment, target: Target) -> Result<Plan, NeuronError> {
    plan(options, |variable| current.get(variable).cloned(), &facts(target))
}

fn settings(plan: &Plan) -> Vec<String> {
    plan.settings.iter().map(|setting| format!("{}={}", setting.variable, setting.value.to_string_lossy())).collect()
}

fn refused(options: &Options, pairs: &[(&str, &str)], target: Target) -> String {
    planned(options, &environment(pairs), target).unwrap_err().to_string()
}

#[test]
fn trainium2_gets_this_list_in_this_order() {
    let options = Options { cores: Cores::Range(0..=3), optimization: Some(1), ..Options::default() };
    let plan = planned(&options, &environment(&[("PATH", "/usr/bin:/bin")]), Target::Trn2).unwrap();
    let expected = [
        "PATH=/venv/bin:/usr/bin:/bin",
        "NEURON_RT_ROOT_COMM_ID=127.0.0.1:41234",
        "NEURON_CC_FLAGS=--target=trn2 --model-type=transformer --auto-cast=none --lnc=2 --optlevel=1",
        "NEURON_INTERNAL_PJRT_C_API_VERSION=0.115",
        "NEURON_RT_STOCHASTIC_ROUNDING_EN=0",
        "NEURON_RT_VISIBLE_CORES=0-3",
        "NEURON_LOGICAL_NC_CONFIG=2",
    ];
    assert_eq!(settings(&plan), expected);
    assert_eq!((plan.target, plan.logical_core), (Target::Trn2, 2));
}

#[test]
fn cores_without_logical_ones_get_no_such_setting() {
    let plan = planned(&Options::default(), &environment(&[]), Target::Inf2).unwrap();
    let expected = [
        "PATH=/venv/bin",
        "NEURON_RT_ROOT_COMM_ID=127.0.0.1:41234",
        "NEURON_CC_FLAGS=--target=inf2 --model-type=transformer --auto-cast=none",
        "NEURON_INTERNAL_PJRT_C_API_VERSION=0.115",
        "NEURON_RT_STOCHASTIC_ROUNDING_EN=0",
    ];
    assert_eq!(settings(&plan), expected);
}

#[test]
fn what_the_user_set_is_kept_and_flags_are_only_completed() {
    let current = environment(&[
        ("PATH", "/bin:/venv/bin"),
        ("NEURON_RT_ROOT_COMM_ID", "10.0.0.1:4000"),
        ("NEURON_CC_FLAGS", "--verbose=info --auto-cast matmult -lnc 1"),
        ("NEURON_RT_STOCHASTIC_ROUNDING_EN", "1"),
        ("NEURON_RT_VISIBLE_CORES", "2,3,4-5"),
        ("NEURON_RT_VIRTUAL_CORE_SIZE", "1"),
    ]);
    let plan = planned(&Options { cores: Cores::Count(4), ..Options::default() }, &current, Target::Trn2).unwrap();
    let expected = [
        "NEURON_CC_FLAGS=--verbose=info --auto-cast matmult -lnc 1 --target=trn2 --model-type=transformer",
        "NEURON_INTERNAL_PJRT_C_API_VERSION=0.115",
        "NEURON_LOGICAL_NC_CONFIG=1",
    ];
    assert_eq!(settings(&plan), expected);
    assert_eq!(plan.logical_core, 1);
}

#[test]
fn a_plan_of_its_own_outcome_is_empty() {
    let processes = Some(Processes { devices: vec![4], index: 0 });
    for cores in [Cores::Free, Cores::Count(4), Cores::Range(4..=7)] {
        let options = Options { cores, optimization: Some(2), processes: processes.clone(), ..Options::default() };
        let mut current = environment(&[("PATH", "/bin")]);
        let first = planned(&options, &current, Target::Trn3).unwrap();
        current.extend(first.settings.iter().map(|setting| (setting.variable.to_owned(), setting.value.clone())));
        assert_eq!(settings(&planned(&options, &current, Target::Trn3).unwrap()), [""; 0]);
    }
}

#[test]
fn contradictions_name_both_sides() {
    let lnc = |size| Options { logical_core: Some(size), ..Options::default() };
    let cores = |cores| Options { cores, ..Options::default() };
    type Case<'a> = (Options, &'a [(&'a str, &'a str)], [&'a str; 2]);
    let cases: [Case<'_>; 10] = [
        (lnc(2), &[("NEURON_LOGICAL_NC_CONFIG", "1")], ["`logical_core` is 2", "`NEURON_LOGICAL_NC_CONFIG` is 1"]),
        (lnc(1), &[("NEURON_CC_FLAGS", "--lnc=2")], ["`logical_core` is 1", "`NEURON_CC_FLAGS` is 2"]),
        (
            Options::default(),
            &[("NEURON_LOGICAL_NC_CONFIG", "1"), ("NEURON_RT_VIRTUAL_CORE_SIZE", "2")],
            ["`NEURON_LOGICAL_NC_CONFIG` is 1", "`NEURON_RT_VIRTUAL_CORE_SIZE` is 2"],
        ),
        (
            Options { target: Some(Target::Trn1), ..Options::default() },
            &[],
            ["the option `target` is trn1", "this machine is trn2"],
        ),
        (
            Options::default(),
            &[("NEURON_CC_FLAGS", "--target trn3")],
            ["this machine is trn2", "`--target` in `NEURON_CC_FLAGS` is trn3"],
        ),
        (
            Options::default(),
            &[("NEURON_INTERNAL_PJRT_C_API_VERSION", "0.70")],
            ["`NEURON_INTERNAL_PJRT_C_API_VERSION` is `0.70`", "the PJRT header of this program is `0.115`"],
        ),
        (
            cores(Cores::Count(2)),
            &[("NEURON_RT_VISIBLE_CORES", "0-3")],
            ["`NEURON_RT_VISIBLE_CORES` is `0-3`", "`cores` asks for 2"],
        ),
        (
            cores(Cores::Range(0..=3)),
            &[("NEURON_RT_NUM_CORES", "2")],
            ["`NEURON_RT_NUM_CORES` is `2`", "`cores` asks for 0-3"],
        ),
        (
            Options { optimization: Some(1), ..Options::default() },
            &[("NEURON_CC_FLAGS", "-O3")],
            ["`--optlevel` in `NEURON_CC_FLAGS` is 3", "`optimization` is 1"],
        ),
        (
            Options { processes: Some(Processes { devices: vec![2, 2], index: 1 }), ..Options::default() },
            &[("NEURON_RT_ROOT_COMM_ID", "host:1"), ("NEURON_PJRT_PROCESS_INDEX", "0")],
            ["`NEURON_PJRT_PROCESS_INDEX` is `0`", "`index` of the option `processes` is `1`"],
        ),
    ];
    for (options, pairs, sides) in cases {
        let text = refused(&options, pairs, Target::Trn2);
        assert!(sides.iter().all(|side| text.contains(side)), "{sides:?}: {text}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let cases: [(&str, &str, &str); 8] = [
        ("NEURON_RT_VISIBLE_CORES", "3,5", "`3,5`, expected consecutive cores, such as `0-3`"),
        ("NEURON_RT_VISIBLE_CORES", "5-3", "expected consecutive"),
        ("NEURON_RT_VISIBLE_CORES", "0-4294967295,0", "expected consecutive"),
        ("NEURON_RT_NUM_CORES", "many", "`many`, expected a number"),
        ("NEURON_RT_ROOT_COMM_ID", "localhost", "expected `<host>:<port>`"),
        ("NEURON_RT_ROOT_COMM_ID", ":4000", "expected `<host>:<port>`"),
        ("NEURON_LOGICAL_NC_CONFIG", "4", "trn2 does not support 4 physical cores in a logical one"),
        ("NEURON_CC_FLAGS", "--target=gpu", "`gpu` is no Neuron target"),
    ];
    for (variable, value, expected) in cases {
        let text = refused(&Options::default(), &[(variable, value)], Target::Trn2);
        assert!(text.contains(expected), "{variable}={value}: {text}");
    }
    let lnc = Options { logical_core: Some(2), ..Options::default() };
    let text = refused(&lnc, &[], Target::Trn1);
    assert!(text.contains("trn1 does not support 2 physical cores") && text.ends_with("allowed: 1"), "{text}");
    for cores in [Cores::Count(0), Cores::Range(RangeInclusive::new(3, 2))] {
        let text = refused(&Options { cores, ..Options::default() }, &[], Target::Trn2);
        assert!(text.starts_with("option `cores` is "), "{text}");
    }
    let text = refused(&Options { optimization: Some(4), ..Options::default() }, &[], Target::Trn2);
    assert_eq!(text, "option `optimization` is 4, expected 1, 2 or 3");
}

#[test]
fn families_of_one_generation_share_programs() {
    let plan =
        planned(&Options::default(), &environment(&[("NEURON_CC_FLAGS", "--target=trn1")]), Target::Inf2).unwrap();
    assert!(settings(&plan)[2].starts_with("NEURON_CC_FLAGS=--target=trn1 --model-type"), "{:?}", settings(&plan));
}

#[test]
fn an_unknown_machine_needs_a_target() {
    let facts = Facts { target: None, ..facts(Target::Trn2) };
    let error = plan(&Options::default(), |_| None, &facts).unwrap_err().to_string();
    assert!(error.ends_with("name a target: trn1, trn1n, inf2, trn2, trn3"), "{error}");
    let named = Options { target: Some(Target::Trn2), ..Options::default() };
    assert_eq!(plan(&named, |_| None, &facts).unwrap().target, Target::Trn2);
}

#[test]
fn several_processes_need_a_place_to_meet() {
    let options = Options { processes: Some(Processes { devices: vec![8, 8], index: 1 }), ..Options::default() };
    assert!(refused(&options, &[], Target::Trn2).contains("NEURON_RT_ROOT_COMM_ID=<host>:<port>"));
    let plan = planned(&options, &environment(&[("NEURON_RT_ROOT_COMM_ID", "10.0.0.1:4000")]), Target::Trn2).unwrap();
    let last: Vec<String> = settings(&plan).into_iter().rev().take(2).collect();
    assert_eq!(last, ["NEURON_PJRT_PROCESS_INDEX=1", "NEURON_PJRT_PROCESSES_NUM_DEVICES=8,8"]);
    for (devices, index) in [(vec![], 0), (vec![8], 1), (vec![8, 0], 0)] {
        let options = Options { processes: Some(Processes { devices, index }), ..Options::default() };
        let text = refused(&options, &[("NEURON_RT_ROOT_COMM_ID", "10.0.0.1:4000")], Target::Trn2);
        assert!(text.contains("option `processes`"), "{text}");
    }
}

#[test]
fn variables_are_set_by_a_lone_thread_only() {
    // A name of its own: no other test reads it. The real count is of a test runner, which has several threads.
    const VARIABLE: &str = "NXD_NEURON_ENVIRONMENT_TEST";
    let setting = Setting { variable: VARIABLE, value: "it's one".into(), reason: "a test" };
    let plan = Plan { target: Target::Trn2, logical_core: 2, settings: vec![setting] };
    let error = plan.apply().unwrap_err().to_string();
    assert!(error.ends_with(r"export NXD_NEURON_ENVIRONMENT_TEST='it'\''s one'"), "{error}");
    assert_eq!(env::var_os(VARIABLE), None);
    let empty = Plan { settings: Vec::new(), ..plan };
    empty.apply().unwrap();
}
