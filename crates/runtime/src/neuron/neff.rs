//! The header of a NEFF (a compiled program): read before libnrt sees the file, so that a cut or foreign file is an error
//! with words and not a status.
//!
//! 1024 bytes, little endian, with C's natural alignment, then an archive that is libnrt's own business. The header does
//! *not* name the instance family: a NEFF of another family is found by `nrt_load` only.
//!
//! Source: AWS Neuron documentation, "Work with NEFF files".
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::error::NeuronError;

/// Bytes before the archive.
pub const HEADER_BYTES: usize = 1024;

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeffHeader {
    /// Version of the packaging; it decides the hash function.
    pub package_version: u64,
    /// NEFF version, major and minor.
    pub version: (u64, u64),
    /// The compiler build that wrote it.
    pub build: String,
    /// Bytes of the archive.
    pub data_bytes: u64,
    /// Hash of the archive, as stored: SHA-256 or MD5.
    pub hash: [u8; 32],
    /// Unique identifier.
    pub uuid: [u8; 16],
    /// The program's name.
    pub name: String,
    /// Physical cores that it runs best on.
    pub cores: u32,
    /// Bits of features that the runtime must know.
    pub feature_bits: u64,
    /// Physical cores in each logical one; `None` in files that are older than the field.
    pub logical_core: Option<u32>,
}

/// A checked NEFF in memory.
#[derive(Clone, Debug)]
pub struct Neff<'a> {
    header: NeffHeader,
    bytes: &'a [u8],
}

impl<'a> Neff<'a> {
    /// Checks the header of `bytes`, a whole file.
    ///
    /// # Errors
    ///
    /// A file that is shorter than its header or its header's promise, or whose header cannot be one.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NeuronError> {
        let fields = Fields(bytes.get(..HEADER_BYTES).ok_or(NeuronError::NeffTooShort { found_bytes: bytes.len() })?);
        let header_size = fields.u64(8);
        if header_size != HEADER_BYTES as u64 {
            return Err(NeuronError::NeffHeader { field: "header_size", found: header_size, expected: "1024" });
        }
        let logical_core = match fields.u32(552) {
            0 => None,
            size @ 1..=2 => Some(size),
            other => {
                return Err(NeuronError::NeffHeader { field: "lnc_size", found: other.into(), expected: "1 or 2" });
            }
        };
        let header = NeffHeader {
            package_version: fields.u64(0),
            version: (fields.u64(24), fields.u64(32)),
            build: fields.text::<128>(40),
            data_bytes: fields.u64(16),
            hash: fields.array(172),
            uuid: fields.array(204),
            name: fields.text::<256>(220),
            cores: fields.u32(168),
            feature_bits: fields.u64(544),
            logical_core,
        };
        let found_bytes = bytes.len().saturating_sub(HEADER_BYTES);
        if header.data_bytes > found_bytes as u64 {
            return Err(NeuronError::NeffCut { stated_bytes: header.data_bytes, found_bytes });
        }
        Ok(Self { header, bytes })
    }

    /// What the header says.
    pub fn header(&self) -> &NeffHeader {
        &self.header
    }

    /// The whole file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The program's name, or its identifier where it has none.
    pub fn name(&self) -> String {
        if self.header.name.is_empty() {
            return self.header.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        }
        self.header.name.clone()
    }
}

/// The header's bytes; `parse` has checked that there are 1024.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .expect("the field lies in the 1024 bytes of a header")
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    /// Text up to the first zero byte; bytes that are no UTF-8 are replaced, as it is for reading only.
    fn text<const N: usize>(&self, at: usize) -> String {
        let field = self.array::<N>(at);
        let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header as the documentation's struct lays it out, built from the top by field lengths, not by our offsets.
    fn neff(header_size: u64, data_size: u64, logical_core: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [2_u64, header_size, data_size, 2, 7] {
            bytes.extend(word.to_le_bytes());
        }
        let text = |text: &str, length: usize| {
            let mut field = text.as_bytes().to_vec();
            field.resize(length, 0);
            field
        };
        bytes.extend(text("build 2.0.1", 128));
        bytes.extend(3_u32.to_le_bytes()); // num_tpb
        bytes.extend([0xAB; 32]); // hash
        bytes.extend([0xCD; 16]); // uuid
        bytes.extend(text("decode", 256));
        bytes.extend(1_u32.to_le_bytes()); // requested_tpb_count
        bytes.extend([0; 64]); // tpb_per_node
        bytes.extend(0x11_u64.to_le_bytes()); // feature_bits
        bytes.extend(logical_core.to_le_bytes());
        bytes.extend([0; 468]);
        assert_eq!(bytes.len(), HEADER_BYTES);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn every_documented_field_is_read() {
        let bytes = neff(1024, 5, 2, b"hello");
        let neff = Neff::parse(&bytes).unwrap();
        let expected = NeffHeader {
            package_version: 2,
            version: (2, 7),
            build: "build 2.0.1".to_owned(),
            data_bytes: 5,
            hash: [0xAB; 32],
            uuid: [0xCD; 16],
            name: "decode".to_owned(),
            cores: 3,
            feature_bits: 0x11,
            logical_core: Some(2),
        };
        assert_eq!(*neff.header(), expected);
        assert_eq!((neff.name(), neff.bytes()), ("decode".to_owned(), bytes.as_slice()));
    }

    #[test]
    fn a_file_that_is_cut_or_foreign_is_refused_with_its_reason() {
        let text = |bytes: &[u8]| Neff::parse(bytes).unwrap_err().to_string();
        assert!(text(b"").contains("has 0 bytes"));
        assert!(text(neff(1024, 0, 1, b"").split_last().unwrap().1).contains("has 1023 bytes"));
        assert!(text(&[0xFF; 4096]).contains("header field `header_size` is 18446744073709551615, expected 1024"));
        assert!(text(&neff(1024, 6, 1, b"hello")).contains("promises 6 bytes of content, 5 follow"));
        assert!(text(&neff(1024, u64::MAX, 1, b"hello")).contains("is cut"));
        assert!(text(&neff(1024, 5, 9, b"hello")).contains("`lnc_size` is 9, expected 1 or 2"));
    }

    #[test]
    fn an_older_file_has_no_logical_core_and_a_nameless_one_goes_by_its_identifier() {
        let mut bytes = neff(1024, 0, 0, b"");
        bytes.get_mut(220..476).unwrap().fill(0);
        let neff = Neff::parse(&bytes).unwrap();
        assert_eq!((neff.header().logical_core, neff.name()), (None, "cd".repeat(16)));
    }
}
