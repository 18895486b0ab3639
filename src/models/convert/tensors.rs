//! A checkpoint as the native engine takes it: tensor by tensor, in f32.

use whisper_native::{LoadError, Shape, Tensor, Tensors};

use super::{Buffers, Checkpoint};

impl Checkpoint {
    /// The model's sizes.
    pub fn shape(&self) -> Shape {
        let header = &self.header;
        let size = |value: u32| value as usize;
        Shape {
            n_vocab: size(header.n_vocab),
            n_audio_ctx: size(header.n_audio_ctx),
            audio_state: size(header.n_audio_state),
            audio_heads: size(header.n_audio_head),
            audio_layers: size(header.n_audio_layer),
            text_ctx: size(header.n_text_ctx),
            text_state: size(header.n_text_state),
            text_heads: size(header.n_text_head),
            text_layers: size(header.n_text_layer),
            n_mels: size(header.n_mels),
        }
    }

    /// How the matrices are stored.
    pub fn format(&self) -> crate::models::WeightFormat {
        self.header.format
    }

    /// The family by its layers.
    pub fn size(&self) -> crate::models::SizeClass {
        self.header.size()
    }

    /// The mel filter bank: a row of 201 weights for each band.
    pub fn mel_filters(&self) -> &[f32] {
        &self.mel
    }

    /// The text tokens in the order of their numbers, taken out.
    pub fn take_tokens(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.tokens)
    }
}

impl Tensors for Checkpoint {
    fn tensor(&mut self, name: &str) -> Result<Tensor, LoadError> {
        let Some((spec, located)) = self.tensors.iter().find(|(spec, _)| spec.name == name) else {
            return Err(LoadError::Missing {
                name: name.to_owned(),
            });
        };
        // The shape follows from a header that was checked, and the file is long enough for it.
        let elements = spec.elements();
        // A bias or a norm is one row, also the convolutions' biases, which are columns in the file.
        let first = spec.shape[0].max(1);
        let rows = if first == elements { 1 } else { first };
        let mut buffers = Buffers::default();
        buffers
            .load(&mut self.data, located, 0, elements, elements / rows)
            .map_err(|source| LoadError::Source {
                name: name.to_owned(),
                source: Box::new(source),
            })?;
        Ok(Tensor {
            rows: rows as usize,
            columns: (elements / rows) as usize,
            values: buffers.values,
        })
    }
}
