//! The forms in which ggml stores weights, by ggml's numbers for them.

use std::fmt;

/// Version 2 of ggml's quantised forms stands as 2000 in the format field (ggml `GGML_QNT_VERSION`, `…_FACTOR`).
const QUANTIZATION_VERSION_FACTOR: u32 = 1000;
const QUANTIZATION_VERSION: u32 = 2;

/// How the matrices of a file are stored (ggml `ggml_ftype` and `ggml_type`, which differ in numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, as published.
    F16,
    /// 4.5 bits a weight.
    Q4_0,
    /// 5 bits a weight.
    Q4_1,
    /// 5.5 bits a weight.
    Q5_0,
    /// 6 bits a weight.
    Q5_1,
    /// 8.5 bits a weight.
    Q8_0,
    /// About 2.6 bits a weight.
    Q2K,
    /// About 3.4 bits a weight.
    Q3K,
    /// 4.5 bits a weight.
    Q4K,
    /// 5.5 bits a weight.
    Q5K,
    /// About 6.6 bits a weight.
    Q6K,
}

/// (format, name, `ggml_ftype`, `ggml_type`, weights a block, bytes a block); ggml.h and ggml-common.h.
const FORMATS: [(WeightFormat, &str, u32, u32, u64, u64); 12] = [
    (WeightFormat::F32, "f32", 0, 0, 1, 4),
    (WeightFormat::F16, "f16", 1, 1, 1, 2),
    (WeightFormat::Q4_0, "q4_0", 2, 2, 32, 18),
    (WeightFormat::Q4_1, "q4_1", 3, 3, 32, 20),
    (WeightFormat::Q8_0, "q8_0", 7, 8, 32, 34),
    (WeightFormat::Q5_0, "q5_0", 8, 6, 32, 22),
    (WeightFormat::Q5_1, "q5_1", 9, 7, 32, 24),
    (WeightFormat::Q2K, "q2_k", 10, 10, 256, 84),
    (WeightFormat::Q3K, "q3_k", 11, 11, 256, 110),
    (WeightFormat::Q4K, "q4_k", 12, 12, 256, 144),
    (WeightFormat::Q5K, "q5_k", 13, 13, 256, 176),
    (WeightFormat::Q6K, "q6_k", 14, 14, 256, 210),
];

impl WeightFormat {
    fn row(self) -> &'static (WeightFormat, &'static str, u32, u32, u64, u64) {
        // The table has a row for each variant (test below).
        FORMATS.iter().find(|row| row.0 == self).unwrap_or(&FORMATS[0])
    }

    pub(crate) fn from_file_type(file_type: u32) -> Option<Self> {
        FORMATS
            .iter()
            .find(|row| row.2 == file_type % QUANTIZATION_VERSION_FACTOR)
            .map(|row| row.0)
    }

    pub(crate) fn from_tensor_type(tensor_type: u32) -> Option<Self> {
        FORMATS.iter().find(|row| row.3 == tensor_type).map(|row| row.0)
    }

    /// Value of the header's last field in a file of this format.
    pub(crate) fn file_type(self) -> u32 {
        self.file_type_of_version(if self.is_quantized() {
            QUANTIZATION_VERSION
        } else {
            0
        })
    }

    /// As [`WeightFormat::file_type`], for files of another quantisation version.
    pub(crate) fn file_type_of_version(self, version: u32) -> u32 {
        version * QUANTIZATION_VERSION_FACTOR + self.row().2
    }

    pub(crate) fn tensor_type(self) -> u32 {
        self.row().3
    }

    /// Whether weights are stored in blocks with a shared scale.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16)
    }

    /// Bytes of a tensor with rows of `row_elements`; `None` when a row is no whole number of blocks.
    pub(crate) fn bytes(self, row_elements: u64, elements: u64) -> Option<u64> {
        let (.., block_elements, block_bytes) = *self.row();
        row_elements
            .is_multiple_of(block_elements)
            .then(|| elements / block_elements * block_bytes)
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_its_own_row() {
        for (format, name, file_type, tensor_type, ..) in FORMATS {
            assert_eq!(
                WeightFormat::from_file_type(file_type + 2000),
                Some(format),
                "{name}"
            );
            assert_eq!(
                WeightFormat::from_tensor_type(tensor_type),
                Some(format),
                "{name}"
            );
            assert_eq!(format.to_string(), name);
        }
        assert_eq!(WeightFormat::Q8_0.file_type(), 2007);
        assert_eq!(WeightFormat::Q4_0.file_type(), 2002);
        assert_eq!(WeightFormat::F16.file_type(), 1);
    }
}
