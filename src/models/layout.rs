//! The tensors of a Whisper model, by name, shape and role, in the order of the published ggml files.
//!
//! whisper.cpp finds tensors by name, so any order loads; the published checksums need this one. It is the order of
//! OpenAI's checkpoints up to `large-v2` (found by comparing converted files with the published SHA-1s).

use super::ggml::GgmlHeader;

/// How a tensor's numbers are stored (whisper.cpp `whisper_model_load`: `F32`, `vtype`, `wtype`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Biases, norms, positional embeddings: always f32.
    Small,
    /// Convolution kernels: f16, also in quantised files; f32 in f32 files.
    Convolution,
    /// Matrices: in the file's weight format.
    Weight,
}

/// One tensor as whisper.cpp expects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    /// Row-major: the last dimension is contiguous. The file stores the dimensions the other way round.
    pub(crate) shape: Vec<u64>,
    pub(crate) role: Role,
}

impl TensorSpec {
    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Every tensor of a model with these dimensions.
pub(crate) fn tensors(header: &GgmlHeader) -> Vec<TensorSpec> {
    let audio = u64::from(header.n_audio_state);
    let text = u64::from(header.n_text_state);
    let mut list = List(Vec::new());
    list.push(
        "decoder.positional_embedding",
        &[u64::from(header.n_text_ctx), text],
        Role::Small,
    );
    list.push(
        "encoder.positional_embedding",
        &[u64::from(header.n_audio_ctx), audio],
        Role::Small,
    );
    list.push(
        "decoder.token_embedding.weight",
        &[u64::from(header.n_vocab), text],
        Role::Weight,
    );
    for layer in 0..header.n_text_layer {
        list.block(&format!("decoder.blocks.{layer}."), text, true);
    }
    list.norm("decoder.ln", text);
    for (name, inputs) in [
        ("encoder.conv1", u64::from(header.n_mels)),
        ("encoder.conv2", audio),
    ] {
        list.push(&format!("{name}.weight"), &[audio, inputs, 3], Role::Convolution);
        list.push(&format!("{name}.bias"), &[audio, 1], Role::Small);
    }
    for layer in 0..header.n_audio_layer {
        list.block(&format!("encoder.blocks.{layer}."), audio, false);
    }
    list.norm("encoder.ln_post", audio);
    list.0
}

struct List(Vec<TensorSpec>);

impl List {
    fn push(&mut self, name: &str, shape: &[u64], role: Role) {
        self.0.push(TensorSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
            role,
        });
    }

    fn norm(&mut self, name: &str, state: u64) {
        self.push(&format!("{name}.weight"), &[state], Role::Small);
        self.push(&format!("{name}.bias"), &[state], Role::Small);
    }

    fn linear(&mut self, name: &str, outputs: u64, inputs: u64) {
        self.push(&format!("{name}.weight"), &[outputs, inputs], Role::Weight);
        self.push(&format!("{name}.bias"), &[outputs], Role::Small);
    }

    fn block(&mut self, prefix: &str, state: u64, cross: bool) {
        self.norm(&format!("{prefix}mlp_ln"), state);
        self.linear(&format!("{prefix}mlp.0"), 4 * state, state);
        self.linear(&format!("{prefix}mlp.2"), state, 4 * state);
        for attention in ["attn", "cross_attn"].iter().take(if cross { 2 } else { 1 }) {
            self.norm(&format!("{prefix}{attention}_ln"), state);
            self.linear(&format!("{prefix}{attention}.query"), state, state);
            // Whisper's key projection has no bias.
            self.push(
                &format!("{prefix}{attention}.key.weight"),
                &[state, state],
                Role::Weight,
            );
            self.linear(&format!("{prefix}{attention}.value"), state, state);
            self.linear(&format!("{prefix}{attention}.out"), state, state);
        }
    }
}
