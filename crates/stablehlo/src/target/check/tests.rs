//! One legal program, and for each rule one that breaks it.

use super::*;
use crate::program::{ProgramBuilder, ResultKey};
use crate::record::{CallConfig, CustomCall, Fold, Pairs, Ranks, Recorder};
use crate::target::{Spread, top_k};

fn record(target: &Target, build: impl FnOnce(&mut Recorder) -> Value) -> Program {
    let mut b = ProgramBuilder::new();
    if target.rules.guarded_integers {
        b.rec.guard_integers();
    }
    let result = build(&mut b.rec);
    b.result(ResultKey::Named("result"), &result);
    b.finish("test", 1, Spread::Replicas)
}

fn call(name: &str) -> CustomCall {
    CustomCall { name: name.to_owned(), config: CallConfig::Text(String::new()), aliases: Vec::new(), row_major: false }
}

const TWO: Ranks = Ranks { count: 2, partitions: false };

/// Lookup, product, sum over ranks, candidates, row updates: what a step is made of.
fn legal(target: &Target) -> Program {
    record(target, |rec| {
        let table = rec.argument("table", &[40000, 64], Element::BF16);
        let tokens = rec.argument("tokens", &[4], Element::I32);
        let rows = rec.take_rows(&table, &tokens);
        let logits = rec.dot(&rows, &table, Pairs { contract: (&[1], &[1]), ..Pairs::default() });
        let logits = rec.all_reduce(&logits, Fold::Add, TWO);
        let (values, places) = top_k(rec, target, &logits, 64);
        let first = rec.splat(3.0, &[4, 64], Element::I32);
        let places = rec.maximum(&places, &first);
        let cache = rec.argument("cache", &[10, 64], Element::I32);
        let slots = rec.argument("slots", &[4], Element::I32);
        let cache = rec.put_rows(&cache, &slots, &places);
        let sorted = rec.sort_descending(&values, &places).0;
        let cache = rec.convert(&cache, Element::F32);
        let counted = rec.iota(0, &[10], Element::I32);
        let cache = rec.take_rows(&cache, &counted);
        rec.add_rows(&cache, &slots, &sorted)
    })
}

/// The rule that is broken, and the statement's op, which must stand on the line that is named.
fn broken_rule(program: &Program, target: &Target) -> (&'static str, String) {
    let error = check(program, target).unwrap_err();
    let line = program.text.lines().nth(error.line.wrapping_sub(1)).unwrap_or_default();
    assert!(line.trim().starts_with(error.text.trim_end_matches('…')), "{error:?}\n{line}");
    let text = error.to_string();
    for part in [error.rule, &error.op, error.sentence, error.source_text, target.name, &error.found] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    (error.rule, error.op)
}

fn refused(build: impl FnOnce(&mut Recorder) -> Value) -> (&'static str, String) {
    broken_rule(&record(&Target::NEURON, build), &Target::NEURON)
}

/// A statement that the recorder has no method for.
fn statement(name: &'static str, text: &str) -> Program {
    let mut program = record(&Target::NEURON, |rec| {
        let x = rec.argument("x", &[4], Element::F32);
        rec.abs(&x)
    });
    let mut op = program.ops[0].clone();
    program.text = program.text.replace(&op.text, text);
    op.name = name;
    op.text = text.to_owned();
    program.ops = vec![op];
    program
}

#[test]
fn a_legal_program_passes_on_every_target() {
    for target in Target::ALL {
        let program = legal(&target);
        assert_eq!(check(&program, &target), Ok(()), "{}\n{}", target.name, program.text);
    }
}

#[test]
fn what_is_legal_on_cpu_may_not_be_on_neuron() {
    assert_eq!(broken_rule(&legal(&Target::CPU), &Target::NEURON).0, "top-k by call");
}

#[test]
fn types_that_the_device_lacks_are_refused() {
    for element in [Element::I64, Element::U64, Element::F64, Element::F8E4M3FN] {
        let found = refused(|rec| {
            let x = rec.argument("x", &[4], Element::F32);
            rec.convert(&x, element)
        });
        assert_eq!(found, ("element types", "stablehlo.convert".to_owned()), "{element:?}");
    }
    let mut b = ProgramBuilder::new();
    let x = b.input("x", &[4], Element::F64);
    b.result(ResultKey::Named("x"), &x);
    let error = check(&b.finish("test", 1, Spread::Replicas), &Target::NEURON).unwrap_err();
    assert_eq!(
        (error.rule, error.op.as_str(), error.found.as_str()),
        ("element types", "argument", "has a tensor<4xf64>")
    );
    assert!(error.text.contains("\"x\""), "{}", error.text);
}

#[test]
fn integers_are_not_multiplied_summed_or_added_into_rows() {
    let found = refused(|rec| {
        let x = rec.argument("x", &[4, 4], Element::I32);
        rec.dot(&x, &x, Pairs { contract: (&[1], &[1]), ..Pairs::default() })
    });
    assert_eq!(found, ("products of floats", "stablehlo.dot_general".to_owned()));
    let found = refused(|rec| {
        let x = rec.argument("x", &[4], Element::I32);
        rec.all_reduce(&x, Fold::Add, TWO)
    });
    assert_eq!(found, ("sums over ranks of floats", "stablehlo.all_reduce".to_owned()));
    for element in [Element::I32, Element::I1] {
        let found = refused(|rec| {
            let x = rec.argument("x", &[4, 2], element);
            let at = rec.argument("at", &[3], Element::I32);
            let rows = rec.argument("rows", &[3, 2], element);
            rec.add_rows(&x, &at, &rows)
        });
        assert_eq!(found, ("folding scatters of floats", "stablehlo.scatter".to_owned()));
    }
}

#[test]
fn constants_of_more_than_32_bits_are_refused() {
    for (value, element, fits) in [
        (4294967295.0, Element::U32, true),
        (4294967296.0, Element::U64, false),
        (2147483648.0, Element::I64, false),
        (-2147483649.0, Element::I64, false),
    ] {
        let program = record(&Target::NEURON, |rec| rec.splat(value, &[], element));
        match fits {
            true => assert_eq!(check(&program, &Target::NEURON), Ok(())),
            false => assert_eq!(
                broken_rule(&program, &Target::NEURON),
                ("narrow constants", "stablehlo.constant".to_owned()),
                "{value}"
            ),
        }
        assert_eq!(check(&record(&Target::CPU, |rec| rec.splat(value, &[], element)), &Target::CPU), Ok(()));
    }
}

#[test]
fn a_vocabulary_is_not_sorted() {
    for (columns, legal) in [(16384, true), (16385, false)] {
        let program = record(&Target::NEURON, |rec| {
            let x = rec.argument("x", &[2, columns], Element::F32);
            let places = rec.iota(1, &[2, columns], Element::I32);
            rec.sort_descending(&x, &places).0
        });
        match legal {
            true => assert_eq!(check(&program, &Target::NEURON), Ok(())),
            false => {
                assert_eq!(broken_rule(&program, &Target::NEURON), ("short sorts", "stablehlo.sort".to_owned()));
            }
        }
    }
}

#[test]
fn the_largest_are_asked_for_by_neurons_call() {
    let found = refused(|rec| {
        let x = rec.argument("x", &[2, 100], Element::F32);
        rec.top_k(&x, 5).0
    });
    assert_eq!(found, ("top-k by call", "chlo.top_k".to_owned()));
    for (columns, element) in [(16385, Element::F32), (100, Element::I32)] {
        let found = refused(|rec| {
            let x = rec.argument("x", &[2, columns], element);
            let types = [Type::new(&[2, 5], element), Type::new(&[2, 5], Element::I32)];
            rec.custom_call(&call("AwsNeuronTopK"), &[&x], &types).swap_remove(0)
        });
        assert_eq!(found, ("top-k by call", "stablehlo.custom_call".to_owned()), "{columns} {element:?}");
    }
}

#[test]
fn only_recognised_calls_pass() {
    let one = |name: &str| {
        record(&Target::NEURON, |rec| {
            let x = rec.argument("x", &[2], Element::F32);
            rec.custom_call(&call(name), &[&x], &[x.ty().clone()]).remove(0)
        })
    };
    for name in ["AwsNeuronCustomNativeKernel", "AwsNeuronErf"] {
        assert_eq!(check(&one(name), &Target::NEURON), Ok(()));
    }
    for name in ["my.rms_norm", "__gpu$xla.gpu.ptx"] {
        let found = broken_rule(&one(name), &Target::NEURON);
        assert_eq!(found, ("recognised custom calls", "stablehlo.custom_call".to_owned()));
        assert_eq!(check(&one(name), &Target::CPU), Ok(()));
    }
}

#[test]
fn repeated_integers_come_out_of_a_barrier() {
    let constant = |guard: bool| {
        let mut b = ProgramBuilder::new();
        if guard {
            b.rec.guard_integers();
        }
        let x = b.rec.splat(3.0, &[4], Element::I32);
        let again = b.rec.splat(3.0, &[4], Element::I32);
        assert_eq!(x, again, "a constant is recorded once");
        b.result(ResultKey::Named("x"), &x);
        b.finish("test", 1, Spread::Replicas)
    };
    assert_eq!(check(&constant(true), &Target::NEURON), Ok(()));
    assert_eq!(broken_rule(&constant(false), &Target::NEURON), ("guarded integers", "stablehlo.constant".to_owned()));
    assert_eq!(check(&constant(false), &Target::CPU), Ok(()));
    let mut b = ProgramBuilder::new();
    let seed = b.input("seed", &[], Element::U32);
    let seeds = b.rec.broadcast(&seed, &[], &[4]);
    b.result(ResultKey::Named("seeds"), &seeds);
    let found = broken_rule(&b.finish("test", 1, Spread::Replicas), &Target::NEURON);
    assert_eq!(found, ("guarded integers", "stablehlo.broadcast_in_dim".to_owned()));
}

#[test]
fn counted_indices_stay_in_their_table() {
    for (count, legal) in [(8, true), (9, false)] {
        let looked_up = record(&Target::NEURON, |rec| {
            let table = rec.argument("table", &[8, 2], Element::F32);
            let at = rec.iota(0, &[count], Element::I32);
            rec.take_rows(&table, &at)
        });
        let replaced = record(&Target::NEURON, |rec| {
            let table = rec.argument("table", &[8, 2], Element::F32);
            let at = rec.iota(0, &[count], Element::I32);
            let rows = rec.argument("rows", &[count, 2], Element::F32);
            rec.put_rows(&table, &at, &rows)
        });
        for (program, op) in [(looked_up, "stablehlo.gather"), (replaced, "stablehlo.scatter")] {
            match legal {
                true => assert_eq!(check(&program, &Target::NEURON), Ok(())),
                false => assert_eq!(broken_rule(&program, &Target::NEURON), ("counted indices", op.to_owned())),
            }
        }
    }
}

#[test]
fn at_most_16_groups_of_ranks_are_named() {
    let groups = |count: usize| {
        record(&Target::NEURON, |rec| {
            let x = rec.argument("x", &[4], Element::F32);
            let mut sum = x;
            for ranks in 0..count {
                // Twice the same group is one group.
                sum = rec.all_reduce(&sum, Fold::Add, Ranks { count: ranks + 1, partitions: false });
                sum = rec.all_reduce(&sum, Fold::Add, Ranks { count: ranks + 1, partitions: false });
            }
            sum
        })
    };
    assert_eq!(check(&groups(16), &Target::NEURON), Ok(()));
    assert_eq!(broken_rule(&groups(17), &Target::NEURON), ("replica groups", "stablehlo.all_reduce".to_owned()));
    assert_eq!(check(&groups(17), &Target::CPU), Ok(()));
}

#[test]
fn what_the_recorder_cannot_say_is_refused_too() {
    let cases = [
        ("known ops", "stablehlo.triangular_solve", "%0 = stablehlo.triangular_solve %x : tensor<4xf32>"),
        ("no complex numbers", "stablehlo.abs", "%0 = stablehlo.abs %x : (tensor<4xcomplex<f32>>) -> tensor<4xf32>"),
        (
            "no exotic small floats",
            "stablehlo.convert",
            "%0 = stablehlo.convert %x : (tensor<4xf8E4M3FNUZ>) -> tensor<4xf32>",
        ),
        (
            "no exotic small floats",
            "stablehlo.convert",
            "%0 = stablehlo.convert %x : (tensor<4xf4E2M1FN>) -> tensor<4xf32>",
        ),
        ("static shapes", "stablehlo.abs", "%0 = stablehlo.abs %x : tensor<?xf32>"),
    ];
    for (rule, op, text) in cases {
        assert_eq!(broken_rule(&statement(op, text), &Target::NEURON), (rule, op.to_owned()));
    }
}

#[test]
fn an_empty_dimension_is_refused_everywhere() {
    for target in Target::ALL {
        let program = record(&target, |rec| {
            let x = rec.argument("x", &[0, 4], Element::F32);
            rec.abs(&x)
        });
        assert_eq!(broken_rule(&program, &target), ("static shapes", "stablehlo.abs".to_owned()));
    }
}

#[test]
fn every_rule_was_broken_once() {
    let tests = include_str!("tests.rs");
    for rule in RULES.iter().chain([&GROUPS]) {
        assert!(tests.contains(&format!("\"{}\"", rule.name)), "no test breaks the rule `{}`", rule.name);
    }
}
