//! Types and values of a recorded program.

use std::fmt;
use std::sync::Arc;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the types' own names")]
pub enum Element {
    I1,
    I8,
    I32,
    I64,
    U32,
    U64,
    F8E4M3FN,
    F8E5M2,
    F16,
    BF16,
    F32,
    F64,
}

impl Element {
    /// Its name in MLIR.
    pub const fn mlir(self) -> &'static str {
        match self {
            Element::I1 => "i1",
            Element::I8 => "i8",
            Element::I32 => "i32",
            Element::I64 => "i64",
            Element::U32 => "ui32",
            Element::U64 => "ui64",
            Element::F8E4M3FN => "f8E4M3FN",
            Element::F8E5M2 => "f8E5M2",
            Element::F16 => "f16",
            Element::BF16 => "bf16",
            Element::F32 => "f32",
            Element::F64 => "f64",
        }
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Element::I1 | Element::I8 | Element::F8E4M3FN | Element::F8E5M2 => 1,
            Element::F16 | Element::BF16 => 2,
            Element::I32 | Element::U32 | Element::F32 => 4,
            Element::I64 | Element::U64 | Element::F64 => 8,
        }
    }

    /// Whether it is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, Element::F8E4M3FN | Element::F8E5M2 | Element::F16 | Element::BF16 | Element::F32 | Element::F64)
    }
}

/// The type of a tensor: its dimensions, all known, and its elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Length of each dimension, outermost first; empty for a scalar.
    pub dims: Arc<[usize]>,
    /// The elements.
    pub element: Element,
}

impl Type {
    /// A tensor type.
    pub fn new(dims: &[usize], element: Element) -> Self {
        Type { dims: dims.into(), element }
    }

    /// Elements of a tensor of this type.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether a dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a tensor of this type.
    pub fn bytes(&self) -> usize {
        self.len() * self.element.bytes()
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensor<")?;
        for dim in self.dims.iter() {
            write!(f, "{dim}x")?;
        }
        write!(f, "{}>", self.element.mlir())
    }
}

/// An argument of the program, or a result of one of its ops.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub(super) name: Arc<str>,
    pub(super) ty: Type,
}

impl Value {
    /// Its type.
    pub fn ty(&self) -> &Type {
        &self.ty
    }

    /// Its dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.ty.dims
    }

    /// The type of its elements.
    pub fn element(&self) -> Element {
        self.ty.element
    }

    /// Its name in the text, with the percent sign.
    pub fn name(&self) -> &str {
        &self.name
    }
}
