//! Tensors to the device and back.

use nxd_runtime::pjrt::{ElementType, PjrtError};

use super::client;

#[test]
fn every_type_comes_back_as_it_went() {
    let mut tried = 0;
    for element in ElementType::ALL.iter().copied() {
        // Truth values are 0 and 1, and a 4-bit number has a byte of its own on the host.
        let mask = match element {
            ElementType::Pred => 1,
            ElementType::S2 | ElementType::U2 => 0x01,
            ElementType::S4 | ElementType::U4 | ElementType::F4E2M1FN => 0x07,
            _ => 0xFF,
        };
        let data: Vec<u8> = (0..6 * element.bytes()).map(|i| (i * 37 + 1) as u8 & mask).collect();
        let buffer = client().upload(0, element, &[2, 3], &data).unwrap_or_else(|error| panic!("{element}: {error}"));
        assert_eq!((buffer.element(), buffer.dims()), (element, [2, 3].as_slice()));
        let mut back = vec![0; data.len()];
        buffer.read(&mut back).unwrap_or_else(|error| panic!("{element}: {error}"));
        assert_eq!(back, data, "{element}");
        tried += 1;
    }
    assert!(tried >= 20, "{tried}");
}

#[test]
fn scalars_and_empty_tensors_are_tensors() {
    let scalar = client().upload_slice(0, &[], &[42_i64]).unwrap();
    assert_eq!(scalar.to_vec::<i64>().unwrap(), [42]);
    let empty = client().upload_slice::<f32>(0, &[0, 4], &[]).unwrap();
    assert!(empty.to_vec::<f32>().unwrap().is_empty());
}

#[test]
fn a_wrong_length_is_refused_both_ways() {
    let error = client().upload(0, ElementType::BF16, &[2, 3], &[0; 11]).unwrap_err().to_string();
    assert_eq!(error, "bf16[2, 3] is 12 bytes, the host side has 11");
    let buffer = client().upload(0, ElementType::BF16, &[2, 3], &[0; 12]).unwrap();
    assert!(matches!(buffer.read(&mut [0; 13]), Err(PjrtError::Length { needed_bytes: 12, found_bytes: 13, .. })));
    let huge = client().upload(0, ElementType::F32, &[usize::MAX, 2], &[]).unwrap_err();
    assert!(matches!(huge, PjrtError::TooLarge { .. }), "{huge}");
}

#[test]
fn elements_are_not_read_as_another_type() {
    let buffer = client().upload_slice(0, &[1], &[1_f32]).unwrap();
    let error = buffer.to_vec::<i32>().unwrap_err().to_string();
    assert_eq!(error, "the buffer holds f32, not i32");
    // 16-bit floats are bits for the caller to convert.
    let bf16 = client().upload(0, ElementType::BF16, &[1], &[0x80, 0x3F]).unwrap();
    assert_eq!(bf16.to_vec::<u16>().unwrap(), [0x3F80]);
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    let error = client().upload(2, ElementType::F32, &[1], &[0; 4]).unwrap_err().to_string();
    assert_eq!(error, "there is no device 2: the client has 2");
}

#[test]
fn a_deleted_buffer_is_gone() {
    let buffer = client().upload_slice(1, &[4], &[1_u8, 2, 3, 4]).unwrap();
    assert_eq!(buffer.size_in_bytes().unwrap(), 4);
    buffer.delete().unwrap();
    assert!(buffer.is_deleted().unwrap());
    assert!(buffer.to_vec::<u8>().is_err());
}
