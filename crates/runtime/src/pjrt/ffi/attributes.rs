//! The attributes of a custom call: its `backend_config` dictionary.

use std::ffi::c_int;

use super::super::ElementType;
use super::super::plugin::slice;
use super::frame::{Array, RawAttributes, Scalar, Span};

const ARRAY: c_int = 1;
const DICTIONARY: c_int = 2;
const SCALAR: c_int = 3;
const TEXT: c_int = 4;

/// A dictionary of attributes.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    raw: &'a RawAttributes,
}

/// An attribute's value.
#[derive(Clone)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is named after what it holds")]
pub enum Attribute<'a> {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Dictionary(Attributes<'a>),
    /// Of a type that is not read here.
    Other,
}

impl<'a> Attributes<'a> {
    /// # Safety
    ///
    /// `raw` is part of a live call frame, and so is what it points to.
    pub(super) unsafe fn new(raw: &'a RawAttributes) -> Self {
        Self { raw }
    }

    /// The attribute with this name.
    pub fn get(&self, name: &str) -> Option<Attribute<'a>> {
        let index = self.names().position(|found| found == name.as_bytes())?;
        // SAFETY: the lists have the length that the frame tells.
        let (kind, item) = unsafe { (*self.raw.kinds.add(index), *self.raw.items.add(index)) };
        // SAFETY: the kind says what the item is; it lives as long as the frame.
        Some(unsafe {
            match kind {
                SCALAR => {
                    let scalar = &*item.cast::<Scalar>();
                    numbers(scalar.element, scalar.value.cast(), 1).map_or(Attribute::Other, Numbers::one)
                }
                TEXT => std::str::from_utf8(bytes(&*item.cast::<Span>())).map_or(Attribute::Other, Attribute::Text),
                ARRAY => {
                    let array = &*item.cast::<Array>();
                    numbers(array.element, array.values.cast(), array.len).map_or(Attribute::Other, Numbers::all)
                }
                DICTIONARY => Attribute::Dictionary(Attributes::new(&*item.cast::<RawAttributes>())),
                _ => Attribute::Other,
            }
        })
    }

    /// The names, for error messages.
    fn names(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // SAFETY: the lists have the length that the frame tells.
        let names = unsafe { slice(self.raw.names, usize::try_from(self.raw.len).unwrap_or(0)) };
        // SAFETY: names live as long as the frame.
        names.iter().map(|name| unsafe { bytes(&**name) })
    }

    /// A number.
    ///
    /// # Errors
    ///
    /// There is no such attribute, or it is of another type; the text names it and what there is.
    pub fn float(&self, name: &str) -> Result<f64, String> {
        match self.get(name) {
            Some(Attribute::Float(value)) => Ok(value),
            other => Err(self.wrong(name, "a float", other.is_some())),
        }
    }

    /// An integer.
    ///
    /// # Errors
    ///
    /// As [`Self::float`].
    pub fn int(&self, name: &str) -> Result<i64, String> {
        match self.get(name) {
            Some(Attribute::Int(value)) => Ok(value),
            other => Err(self.wrong(name, "an integer", other.is_some())),
        }
    }

    /// A text.
    ///
    /// # Errors
    ///
    /// As [`Self::float`].
    pub fn text(&self, name: &str) -> Result<&'a str, String> {
        match self.get(name) {
            Some(Attribute::Text(value)) => Ok(value),
            other => Err(self.wrong(name, "a string", other.is_some())),
        }
    }

    fn wrong(&self, name: &str, wanted: &str, is_there: bool) -> String {
        if is_there {
            return format!("attribute `{name}` is not {wanted}");
        }
        let names = self.names().map(String::from_utf8_lossy).collect::<Vec<_>>().join(", ");
        format!("there is no attribute `{name}`, only: {names}")
    }
}

/// Safety: `span` is part of a live call frame.
unsafe fn bytes(span: &Span) -> &[u8] {
    // SAFETY: the caller vouches for it.
    unsafe { slice(span.text, span.len) }
}

enum Numbers {
    Bools(Vec<bool>),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
}

impl Numbers {
    fn one<'a>(self) -> Attribute<'a> {
        match self {
            Self::Bools(list) => list.first().map_or(Attribute::Other, |value| Attribute::Bool(*value)),
            Self::Ints(list) => list.first().map_or(Attribute::Other, |value| Attribute::Int(*value)),
            Self::Floats(list) => list.first().map_or(Attribute::Other, |value| Attribute::Float(*value)),
        }
    }

    fn all<'a>(self) -> Attribute<'a> {
        match self {
            Self::Bools(list) => Attribute::Ints(list.into_iter().map(i64::from).collect()),
            Self::Ints(list) => Attribute::Ints(list),
            Self::Floats(list) => Attribute::Floats(list),
        }
    }
}

/// Numbers of an element type, widened; `None` for types that do not fit.
///
/// Safety: `len` such elements lie at `values`.
unsafe fn numbers(element: c_int, values: *const u8, len: usize) -> Option<Numbers> {
    let element = ElementType::from_ffi(element).ok()?;
    // SAFETY: the caller vouches for it.
    let bytes = unsafe { slice(values, len.checked_mul(element.bytes())?) };
    macro_rules! widened {
        ($type:ty, $kind:ident) => {{
            let (chunks, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
            Some(Numbers::$kind(chunks.iter().map(|chunk| <$type>::from_ne_bytes(*chunk).into()).collect()))
        }};
    }
    match element {
        ElementType::Pred => Some(Numbers::Bools(bytes.iter().map(|byte| *byte != 0).collect())),
        ElementType::S8 => widened!(i8, Ints),
        ElementType::S16 => widened!(i16, Ints),
        ElementType::S32 => widened!(i32, Ints),
        ElementType::S64 => widened!(i64, Ints),
        ElementType::U8 => widened!(u8, Ints),
        ElementType::U16 => widened!(u16, Ints),
        ElementType::U32 => widened!(u32, Ints),
        ElementType::F32 => widened!(f32, Floats),
        ElementType::F64 => widened!(f64, Floats),
        _ => None,
    }
}
