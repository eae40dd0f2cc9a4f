//! Running a program on XLA's CPU plugin.

use crate::host::HostArray;
use crate::inputs::Inputs;
use crate::program::{ArgumentKey, Program, ResultKey};
use crate::record::Element;
use nxd_runtime::pjrt::{Buffer, Client, CompileOptions, ElementType, Executable, Plugin, Program as Source};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// One client for all tests of the process.
fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| Plugin::load(&nxd_testkit::pjrt_cpu_plugin()).unwrap().create_client(&[]).unwrap())
}

/// The program compiled, once for each text.
fn compiled(program: &Program) -> Arc<Executable> {
    static COMPILED: OnceLock<Mutex<HashMap<String, Arc<Executable>>>> = OnceLock::new();
    let mut all = COMPILED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let make = || {
        let compiled = client().compile(&Source::mlir(program.text.as_bytes()), &CompileOptions::default());
        Arc::new(compiled.unwrap_or_else(|e| panic!("{e}\n{}", program.text)))
    };
    Arc::clone(all.entry(program.text.clone()).or_insert_with(make))
}

/// The results of a program that takes step arguments only.
pub(super) fn run(program: &Program, inputs: &Inputs) -> HashMap<&'static str, HostArray> {
    let executable = compiled(program);
    let arguments: Vec<Buffer> = program
        .arguments
        .iter()
        .map(|argument| {
            let ArgumentKey::Step(name) = &argument.key else { panic!("{:?} is no argument of a step", argument.key) };
            let array = inputs.get(name).unwrap_or_else(|| panic!("argument `{name}` is not given"));
            assert_eq!(array.ty(), argument.ty, "argument `{name}`");
            let element = element_type(array.element);
            client().upload(0, element, &array.dims, &array.data).unwrap()
        })
        .collect();
    let outputs = executable.execute(&[arguments.iter().collect()], &[]).unwrap();
    program
        .results
        .iter()
        .zip(&outputs[0])
        .map(|((key, ty), buffer)| {
            let ResultKey::Named(name) = *key else { panic!("{key:?} has no name") };
            assert_eq!(buffer.element(), element_type(ty.element), "result `{name}`");
            let mut data = vec![0; ty.bytes()];
            buffer.read(&mut data).unwrap();
            (name, HostArray { dims: ty.dims.to_vec(), element: ty.element, data })
        })
        .collect()
}

fn element_type(element: Element) -> ElementType {
    match element {
        Element::I32 => ElementType::S32,
        Element::U32 => ElementType::U32,
        Element::F32 => ElementType::F32,
        other => panic!("{other:?} does not cross the border of these programs"),
    }
}
