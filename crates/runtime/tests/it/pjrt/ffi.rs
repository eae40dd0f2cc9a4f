//! Rust functions inside compiled programs.

use nxd_runtime::pjrt::{Attribute, Call, Executable, FfiHandler, PjrtError, Traits};

use super::{client, compile, plugin};

/// Registers once for all tests of this binary that use the same name.
fn register(name: &str, handler: FfiHandler) {
    plugin().register_handler(name, "Host", handler, Traits::default()).unwrap();
}

/// A program with one custom call on `tensor<4xf32>`.
fn program(name: &str, attributes: &str) -> Executable {
    let text = format!(
        "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {{
           %y = stablehlo.custom_call @{name}(%x) {{api_version = 4 : i32, backend_config = {{{attributes}}}}}
             : (tensor<4xf32>) -> tensor<4xf32>
           return %y : tensor<4xf32> }}"
    );
    compile(&text).unwrap()
}

fn run(executable: &Executable) -> Result<Vec<f32>, PjrtError> {
    let x = client().upload_slice(0, &[4], &[1_f32, 2.0, 3.0, 4.0])?;
    executable.execute(&[vec![&x]], &[])?[0][0].to_vec()
}

fn scale(call: &mut Call<'_>) -> Result<(), String> {
    let factor = call.float("factor")? as f32 * call.int("times")? as f32;
    if call.text("name")? != "scale" || !matches!(call.attr("on"), Some(Attribute::Bool(true))) {
        return Err("attributes are not what the program says".to_owned());
    }
    let Some(Attribute::Ints(list)) = call.attr("list") else { return Err("no list".to_owned()) };
    let Some(Attribute::Dictionary(inner)) = call.attr("inner") else { return Err("no dictionary".to_owned()) };
    let offset = (list.iter().sum::<i64>() + inner.int("more")?) as f32;
    if (call.num_args(), call.num_results()) != (1, 1) || call.arg(0)?.dims() != [4] {
        return Err("the buffers are not what the program says".to_owned());
    }
    let ([x], [mut y]) = call.split([0], [0])?;
    for (y, x) in y.elements_mut::<f32>()?.iter_mut().zip(x.elements::<f32>()?) {
        *y = x * factor + offset;
    }
    Ok(())
}

#[test]
fn a_handler_computes_with_its_attributes() {
    register("test.scale", FfiHandler::new(scale));
    let executable = program(
        "test.scale",
        r#"factor = 0.5 : f32, times = 4 : i64, name = "scale", on = true, list = array<i64: 1, 2, 3>, inner = {more = 4 : i32}"#,
    );
    assert_eq!(run(&executable).unwrap(), [12.0, 14.0, 16.0, 18.0]);
    let missing = run(&program("test.scale", "factor = 1.0 : f32")).unwrap_err().to_string();
    assert!(missing.contains("there is no attribute `times`, only: factor"), "{missing}");
}

#[test]
fn a_handlers_error_fails_the_execution_with_its_text() {
    register("test.refuse", FfiHandler::new(|_| Err("row 3 is out of range".to_owned())));
    let error = run(&program("test.refuse", "")).unwrap_err();
    assert!(matches!(error, PjrtError::Plugin { .. }), "{error}");
    assert!(error.to_string().contains("row 3 is out of range"), "{error}");
}

#[test]
fn a_handlers_panic_fails_the_execution_with_its_text() {
    register("test.panic", FfiHandler::new(|call| panic!("{} arguments are too many", call.num_args())));
    for _ in 0..2 {
        let error = run(&program("test.panic", "")).unwrap_err().to_string();
        assert!(error.contains("the handler panicked: 1 arguments are too many"), "{error}");
    }
}

#[test]
fn buffers_are_checked_before_they_are_touched() {
    fn nosy(call: &mut Call<'_>) -> Result<(), String> {
        let texts = [
            call.arg(1).err(),
            call.result(7).err(),
            call.arg(0)?.elements::<i32>().err(),
            call.result(0)?.elements_mut::<f64>().err(),
            call.split([0, 3], [0]).err(),
            // The same result twice would be two exclusive borrows of it.
            call.split([], [0, 0]).err(),
            call.stream().err(),
        ];
        let missing = texts.iter().filter(|text| text.is_none()).count();
        Err(format!("{missing} missing; {}", texts.into_iter().flatten().collect::<Vec<_>>().join("; ")))
    }
    register("test.nosy", FfiHandler::new(nosy));
    let error = run(&program("test.nosy", "")).unwrap_err().to_string();
    for part in [
        "0 missing",
        "there is no argument 1: the call has 1",
        "there is no result 7: the call has 1",
        "argument 0: the buffer holds f32, not i32",
        "result 0: the buffer holds f32, not f64",
        "there is no argument 3",
        "result 0 lies in the memory of result 0",
        "`XLA_FFI_Stream_Get` failed",
    ] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

fn put_row(call: &mut Call<'_>) -> Result<(), String> {
    if !call.is_in_place(0, 0)? {
        return Err("not in place".to_owned());
    }
    let refused = call.split([0], [0]).err().ok_or("two borrows of the same memory")?;
    if !refused.contains("result 0 lies in the memory of argument 0") {
        return Err(refused);
    }
    let ([at, row], [mut cache]) = call.split([1, 2], [0])?;
    let (at, row) = (at.elements::<i32>()?[0] as usize, row.elements::<f32>()?);
    cache.elements_mut::<f32>()?[at * row.len()..][..row.len()].copy_from_slice(row);
    Ok(())
}

#[test]
fn a_handler_updates_a_donated_buffer_in_place() {
    register("test.put_row", FfiHandler::new(put_row));
    let executable = compile(
        "func.func @main(%c: tensor<64x32xf32> {tf.aliasing_output = 0 : i32}, %p: tensor<i32>, %r: tensor<32xf32>)
             -> tensor<64x32xf32> {
           %o = stablehlo.custom_call @test.put_row(%c, %p, %r) {api_version = 4 : i32, backend_config = {},
             output_operand_aliases = [#stablehlo.output_operand_alias<
               output_tuple_indices = [], operand_index = 0, operand_tuple_indices = []>]}
             : (tensor<64x32xf32>, tensor<i32>, tensor<32xf32>) -> tensor<64x32xf32>
           return %o : tensor<64x32xf32> }",
    )
    .unwrap();
    let mut cache = client().upload_slice(0, &[64, 32], &[0_f32; 64 * 32]).unwrap();
    let place = cache.address().unwrap();
    for step in 0..3 {
        let at = client().upload_slice(0, &[], &[step * 2]).unwrap();
        let row = client().upload_slice(0, &[32], &[step as f32 + 1.0; 32]).unwrap();
        cache = executable.execute(&[vec![&cache, &at, &row]], &[0]).unwrap().remove(0).remove(0);
        assert_eq!(cache.address().unwrap(), place);
    }
    let rows: Vec<f32> = cache.to_vec::<f32>().unwrap().chunks(32).map(|row| row[31]).collect();
    assert_eq!(rows[..6], [1.0, 0.0, 2.0, 0.0, 3.0, 0.0]);
}

#[test]
fn a_name_belongs_to_one_function() {
    fn first(_: &mut Call<'_>) -> Result<(), String> {
        Ok(())
    }
    register("test.taken", FfiHandler::new(first));
    register("test.taken", FfiHandler::new(first));
    let other = FfiHandler::new(|_| Err("another".to_owned()));
    let error = plugin().register_handler("test.taken", "Host", other, Traits::default()).unwrap_err().to_string();
    assert!(error.contains("another function is registered as custom call `test.taken` on `Host`"), "{error}");
}

#[test]
fn a_call_that_nobody_implements_is_refused() {
    let text = "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
        %y = stablehlo.custom_call @test.nobody(%x) {api_version = 4 : i32, backend_config = {}}
          : (tensor<4xf32>) -> tensor<4xf32>
        return %y : tensor<4xf32> }";
    let error = compile(text).unwrap_err().to_string();
    assert!(error.contains("test.nobody"), "{error}");
}
