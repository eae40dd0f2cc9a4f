//! Handlers called as a plugin calls them, with frames made here.

use std::cell::RefCell;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::{null, null_mut};

use super::super::abi::{ExtensionHead, Opaque};
use super::frame::{Api, Buffers, CallFrame, ErrorCreate, Metadata, MetadataExtension, RawAttributes, RawBuffer};
use super::*;

thread_local! {
    static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

unsafe extern "C" fn create(args: *mut ErrorCreate) -> Opaque {
    // SAFETY: the caller is `super::error`.
    let text = unsafe { CStr::from_ptr((*args).message) };
    TEXT.with(|kept| *kept.borrow_mut() = text.to_str().unwrap().to_owned());
    // Any object that is not null.
    args.cast()
}

/// Runs a handler on one argument and one result, both of two `f32` at `memory`; returns the error's text.
fn run(handler: RawHandler, stage: c_int, memory: &mut [f32; 2]) -> Option<String> {
    let dims = [2_i64];
    let buffer = RawBuffer {
        struct_size: size_of::<RawBuffer>(),
        extensions: null_mut(),
        element: 11,
        data: memory.as_mut_ptr().cast::<c_void>(),
        rank: 1,
        dims: dims.as_ptr(),
    };
    let (kinds, items) = ([1], [&raw const buffer]);
    let list = || Buffers {
        struct_size: size_of::<Buffers>(),
        extensions: null_mut(),
        len: 1,
        kinds: kinds.as_ptr(),
        items: items.as_ptr(),
    };
    let api = Api::for_test(create);
    let mut frame = CallFrame {
        struct_size: CallFrame::LEAST_SIZE,
        extensions: null(),
        api: &api,
        context: null_mut(),
        stage,
        arguments: list(),
        results: list(),
        attributes: empty_attributes(),
    };
    // SAFETY: the frame is whole.
    let error = unsafe { handler(&mut frame) };
    (!error.is_null()).then(|| TEXT.take())
}

fn empty_attributes() -> RawAttributes {
    RawAttributes {
        struct_size: size_of::<RawAttributes>(),
        extensions: null_mut(),
        len: 0,
        kinds: null(),
        names: null(),
        items: null(),
    }
}

fn double(call: &mut Call<'_>) -> Result<(), String> {
    call.result(0)?.elements_mut::<f32>()?.iter_mut().for_each(|x| *x *= 2.0);
    Ok(())
}

#[test]
fn a_handler_runs_in_the_execution_stage_only() {
    let handler = FfiHandler::new(double);
    let mut memory = [1.0, 2.0];
    for stage in 0..3 {
        assert_eq!(run(handler.host[0], stage, &mut memory), None);
        assert_eq!(memory.map(f32::to_bits), [1_f32, 2.0].map(f32::to_bits));
    }
    assert_eq!(run(handler.host[0], 3, &mut memory), None);
    assert_eq!(memory.map(f32::to_bits), [2_f32, 4.0].map(f32::to_bits));
}

#[test]
fn device_memory_is_not_touched() {
    fn peek(call: &mut Call<'_>) -> Result<(), String> {
        assert!(!call.arg(0)?.pointer().is_null());
        Err(call.arg(0)?.bytes().unwrap_err())
    }
    let mut memory = [1.0, 2.0];
    let read = run(FfiHandler::new(peek).device[0], 3, &mut memory).unwrap();
    assert_eq!(read, "argument 0 is in a device's memory; use its pointer");
    let written = run(FfiHandler::new(double).device[1], 3, &mut memory).unwrap();
    assert_eq!(written, "result 0 is in a device's memory; use its pointer");
    assert_eq!(memory.map(f32::to_bits), [1_f32, 2.0].map(f32::to_bits));
}

#[test]
fn a_panic_and_a_text_with_zeros_become_errors() {
    let mut memory = [0.0; 2];
    let panics = FfiHandler::new(|_| panic!("on purpose"));
    assert_eq!(run(panics.host[0], 3, &mut memory).unwrap(), "the handler panicked: on purpose");
    let zeros = FfiHandler::new(|_| Err("a\0b".to_owned()));
    assert_eq!(run(zeros.host[0], 3, &mut memory).unwrap(), "a b");
}

#[test]
fn overlapping_buffers_are_not_borrowed_together() {
    fn both(call: &mut Call<'_>) -> Result<(), String> {
        assert!(call.is_in_place(0, 0)?);
        call.split([0], [0]).map(|_| ())
    }
    let text = run(FfiHandler::new(both).host[0], 3, &mut [0.0; 2]).unwrap();
    assert!(text.starts_with("result 0 lies in the memory of argument 0"), "{text}");
}

#[test]
fn the_question_for_metadata_is_answered_and_nothing_runs() {
    for (recordable, handler) in FfiHandler::new(double).host.into_iter().enumerate() {
        let mut metadata = Metadata::for_test();
        let extension = MetadataExtension {
            head: ExtensionHead { struct_size: size_of::<MetadataExtension>(), kind: 1, next: null() },
            metadata: &raw mut metadata,
        };
        // Before another extension, of a kind that nobody knows.
        let first =
            ExtensionHead { struct_size: size_of::<ExtensionHead>(), kind: 99, next: (&raw const extension).cast() };
        let empty = || Buffers { struct_size: 40, extensions: null_mut(), len: 0, kinds: null(), items: null() };
        let mut frame = CallFrame {
            struct_size: CallFrame::LEAST_SIZE,
            extensions: &first,
            api: null(),
            context: null_mut(),
            stage: 3,
            arguments: empty(),
            results: empty(),
            attributes: empty_attributes(),
        };
        // SAFETY: the frame is whole.
        assert!(unsafe { handler(&mut frame) }.is_null());
        assert_eq!((metadata.major, metadata.minor, metadata.traits), (0, 1, recordable as u32));
    }
}
