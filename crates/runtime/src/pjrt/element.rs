//! Element types: the header's numbers, MLIR's names, and the Rust types that can hold them.

use std::fmt;

use super::PjrtError;

macro_rules! elements {
    ($($(#[$doc:meta])* $name:ident = $pjrt:literal, $ffi:literal, $bytes:literal, $mlir:literal;)*) => {
        /// The type of a buffer's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ElementType { $($(#[$doc])* $name,)* }

        impl ElementType {
            /// Every element type.
            pub const ALL: &'static [ElementType] = &[$(Self::$name,)*];

            /// Bytes of one element on the host; a packed 4-bit type takes a whole byte there.
            pub fn bytes(self) -> usize {
                match self { $(Self::$name => $bytes,)* }
            }

            /// The type's name in MLIR text, and so in a StableHLO program.
            pub fn mlir_name(self) -> &'static str {
                match self { $(Self::$name => $mlir,)* }
            }

            /// The number in the PJRT header (`PJRT_Buffer_Type`).
            pub(super) fn pjrt_number(self) -> i32 {
                match self { $(Self::$name => $pjrt,)* }
            }

            pub(super) fn from_pjrt(number: i32) -> Result<Self, PjrtError> {
                match number { $($pjrt => Ok(Self::$name),)* _ => Err(PjrtError::UnknownElement { number }) }
            }

            /// From the number in the FFI header (`XLA_FFI_DataType`), which counts otherwise.
            pub(super) fn from_ffi(number: i32) -> Result<Self, PjrtError> {
                match number { $($ffi => Ok(Self::$name),)* _ => Err(PjrtError::UnknownElement { number }) }
            }
        }
    };
}

elements! {
    /// Truth values, a byte each.
    Pred = 1, 1, 1, "i1";
    /// 2-bit signed integers.
    S2 = 24, 26, 1, "i2";
    /// 4-bit signed integers.
    S4 = 21, 21, 1, "i4";
    /// 8-bit signed integers.
    S8 = 2, 2, 1, "i8";
    /// 16-bit signed integers.
    S16 = 3, 3, 2, "i16";
    /// 32-bit signed integers.
    S32 = 4, 4, 4, "i32";
    /// 64-bit signed integers.
    S64 = 5, 5, 8, "i64";
    /// 2-bit unsigned integers.
    U2 = 25, 27, 1, "ui2";
    /// 4-bit unsigned integers.
    U4 = 22, 22, 1, "ui4";
    /// 8-bit unsigned integers.
    U8 = 6, 6, 1, "ui8";
    /// 16-bit unsigned integers.
    U16 = 7, 7, 2, "ui16";
    /// 32-bit unsigned integers.
    U32 = 8, 8, 4, "ui32";
    /// 64-bit unsigned integers.
    U64 = 9, 9, 8, "ui64";
    /// 4-bit floats of the MX formats.
    F4E2M1FN = 29, 32, 1, "f4E2M1FN";
    /// 8-bit floats, 3 exponent bits.
    F8E3M4 = 27, 29, 1, "f8E3M4";
    /// 8-bit floats with infinities (Trainium 1 and 2).
    F8E4M3 = 26, 28, 1, "f8E4M3";
    /// 8-bit floats without infinities (NVIDIA, checkpoints).
    F8E4M3FN = 17, 20, 1, "f8E4M3FN";
    /// 8-bit floats, no negative zero, bias 11.
    F8E4M3B11FNUZ = 18, 23, 1, "f8E4M3B11FNUZ";
    /// 8-bit floats, no negative zero.
    F8E4M3FNUZ = 20, 25, 1, "f8E4M3FNUZ";
    /// 8-bit floats, 5 exponent bits.
    F8E5M2 = 16, 19, 1, "f8E5M2";
    /// 8-bit floats, 5 exponent bits, no negative zero.
    F8E5M2FNUZ = 19, 24, 1, "f8E5M2FNUZ";
    /// Powers of two, the scales of the MX formats.
    F8E8M0FNU = 28, 33, 1, "f8E8M0FNU";
    /// IEEE half.
    F16 = 10, 10, 2, "f16";
    /// The upper half of an IEEE single.
    BF16 = 13, 16, 2, "bf16";
    /// IEEE single.
    F32 = 11, 11, 4, "f32";
    /// IEEE double.
    F64 = 12, 12, 8, "f64";
    /// Pairs of singles.
    C64 = 14, 15, 8, "complex<f32>";
    /// Pairs of doubles.
    C128 = 15, 18, 16, "complex<f64>";
}

impl ElementType {
    /// Bits of one element in a device's memory, where small types are packed.
    pub(super) fn device_bits(self) -> usize {
        match self {
            Self::S2 | Self::U2 => 2,
            Self::S4 | Self::U4 | Self::F4E2M1FN => 4,
            _ => self.bytes() * 8,
        }
    }

    /// Bytes of a tensor on the host, or an error when that overflows.
    pub(super) fn tensor_bytes(self, dims: &[usize]) -> Result<usize, PjrtError> {
        let total = dims.iter().try_fold(self.bytes(), |total, dim| total.checked_mul(*dim));
        // The plugin counts in i64, and no allocation is larger than that either.
        total
            .filter(|total| i64::try_from(*total).is_ok())
            .ok_or_else(|| PjrtError::TooLarge { element: self, dims: dims.to_vec() })
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.mlir_name())
    }
}

mod sealed {
    #[allow(unnameable_types, reason = "that seals `Plain`: every type that has it must be plain bytes")]
    pub trait Sealed {}
}

/// A Rust number that a tensor's elements can be read as: the bits of any of [`Plain::HOLDS`].
///
/// `u8` holds every one-byte type and `u16` the 16-bit floats, for callers that convert themselves.
pub trait Plain: sealed::Sealed + Copy + Default + 'static {
    /// The element types whose bits this type can hold; the first is its own.
    const HOLDS: &'static [ElementType];
    /// The type's Rust name.
    const NAME: &'static str;
}

macro_rules! plain {
    ($($type:ident: $($element:ident)*;)*) => { $(
        impl sealed::Sealed for $type {}
        impl Plain for $type {
            const HOLDS: &'static [ElementType] = &[$(ElementType::$element,)*];
            const NAME: &'static str = stringify!($type);
        }
    )* };
}

plain! {
    i8: S8 S4 S2;
    i16: S16;
    i32: S32;
    i64: S64;
    u8: U8 Pred U4 U2 F8E4M3FN F8E5M2 F8E4M3 F8E3M4 F8E4M3B11FNUZ F8E4M3FNUZ F8E5M2FNUZ F8E8M0FNU F4E2M1FN;
    u16: U16 BF16 F16;
    u32: U32;
    u64: U64;
    f32: F32;
    f64: F64;
}

/// That `T` can hold `element`.
pub(super) fn check<T: Plain>(element: ElementType) -> Result<(), PjrtError> {
    if T::HOLDS.contains(&element) {
        return Ok(());
    }
    Err(PjrtError::Element { found: element, wanted: T::NAME })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_both_headers_lead_back_to_the_type() {
        for element in ElementType::ALL {
            assert_eq!(ElementType::from_pjrt(element.pjrt_number()).unwrap(), *element);
        }
        assert_eq!(ElementType::from_ffi(16).unwrap(), ElementType::BF16);
        assert_eq!(ElementType::from_pjrt(13).unwrap(), ElementType::BF16);
        assert!(ElementType::from_pjrt(0).is_err());
    }

    #[test]
    fn a_shape_that_overflows_is_refused() {
        assert_eq!(ElementType::F32.tensor_bytes(&[2, 3]).unwrap(), 24);
        assert_eq!(ElementType::BF16.tensor_bytes(&[]).unwrap(), 2);
        assert!(ElementType::F32.tensor_bytes(&[usize::MAX, 2]).is_err());
    }

    #[test]
    fn a_type_holds_elements_of_its_own_size_only() {
        fn sizes<T: Plain>() {
            assert!(T::HOLDS.iter().all(|element| element.bytes() == size_of::<T>()), "{}", T::NAME);
        }
        sizes::<u8>();
        sizes::<i8>();
        sizes::<u16>();
        sizes::<i64>();
        sizes::<f64>();
    }
}
