//! Arrays on the host side of a program's border.

use crate::record::{Element, Type};

/// An array in the host's memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct HostArray {
    /// Length of each dimension; empty for a scalar.
    pub dims: Vec<usize>,
    /// The elements' type.
    pub element: Element,
    /// Their bytes, in the machine's order.
    pub data: Vec<u8>,
}

impl HostArray {
    /// An array of i32.
    pub fn i32s(dims: &[usize], values: &[i32]) -> Self {
        HostArray::of(dims, Element::I32, bytemuck::cast_slice(values))
    }

    /// An array of u32.
    pub fn u32s(dims: &[usize], values: &[u32]) -> Self {
        HostArray::of(dims, Element::U32, bytemuck::cast_slice(values))
    }

    /// An array of f32.
    pub fn f32s(dims: &[usize], values: &[f32]) -> Self {
        HostArray::of(dims, Element::F32, bytemuck::cast_slice(values))
    }

    /// An array from its bytes.
    ///
    /// # Panics
    /// When there are more or fewer bytes than dimensions and type imply.
    pub fn of(dims: &[usize], element: Element, data: &[u8]) -> Self {
        assert_eq!(data.len(), dims.iter().product::<usize>() * element.bytes(), "bytes of {dims:?} {element:?}");
        HostArray { dims: dims.to_vec(), element, data: data.to_vec() }
    }

    /// Its type in a program.
    pub fn ty(&self) -> Type {
        Type::new(&self.dims, self.element)
    }
}
