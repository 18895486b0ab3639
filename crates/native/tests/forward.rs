//! The whole forward pass against a plain one in `f64`, written from the model's definition, on small random models.

use std::collections::HashMap;

use whisper_native::random::{Random, RandomTensors};
use whisper_native::{
    EncodeError, Encoded, Isa, LoadError, Logits, Precision, Row, Sequence, Shape, StepError, Team, Tensor,
    Tensors, Weights,
};

const SHAPE: Shape = Shape {
    n_vocab: 151,
    n_audio_ctx: 120,
    audio_state: 128,
    audio_heads: 2,
    audio_layers: 3,
    text_ctx: 50,
    text_state: 192,
    text_heads: 3,
    text_layers: 2,
    n_mels: 16,
};

type Matrix = Vec<Vec<f64>>;

/// Whisper by its definition (openai-whisper `model.py`), slow and plain.
struct Plain {
    tensors: RandomTensors,
    cache: HashMap<String, Tensor>,
}

impl Plain {
    fn new() -> Self {
        Self {
            tensors: RandomTensors::new(SHAPE, 7),
            cache: HashMap::new(),
        }
    }

    fn get(&mut self, name: &str) -> Tensor {
        let tensors = &mut self.tensors;
        self.cache
            .entry(name.to_owned())
            .or_insert_with(|| tensors.tensor(name).expect("the shape has this tensor"))
            .clone()
    }

    fn linear(&mut self, x: &Matrix, name: &str, bias: bool) -> Matrix {
        let w = self.get(&format!("{name}.weight"));
        let b = if bias {
            self.get(&format!("{name}.bias")).values
        } else {
            vec![0.0; w.rows]
        };
        let dot = |row: &[f64], n: usize| -> f64 {
            let w = &w.values[n * w.columns..][..w.columns];
            row.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum::<f64>() + f64::from(b[n])
        };
        x.iter()
            .map(|row| (0..w.rows).map(|n| dot(row, n)).collect())
            .collect()
    }

    fn norm(&mut self, x: &Matrix, name: &str) -> Matrix {
        let (w, b) = (
            self.get(&format!("{name}.weight")).values,
            self.get(&format!("{name}.bias")).values,
        );
        x.iter()
            .map(|row| {
                let k = row.len() as f64;
                let mean = row.iter().sum::<f64>() / k;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / k;
                let scale = 1.0 / (variance + 1e-5).sqrt();
                row.iter()
                    .zip(w.iter().zip(&b))
                    .map(|(x, (w, b))| (x - mean) * scale * f64::from(*w) + f64::from(*b))
                    .collect()
            })
            .collect()
    }

    /// Multi-head attention; gives the weights of each head too.
    fn attention(&mut self, x: &Matrix, other: &Matrix, name: &str, causal: bool) -> (Matrix, Vec<Matrix>) {
        let q = self.linear(x, &format!("{name}.query"), true);
        let k = self.linear(other, &format!("{name}.key"), false);
        let v = self.linear(other, &format!("{name}.value"), true);
        let width = q[0].len();
        let mut out = vec![vec![0.0; width]; q.len()];
        let mut weights = Vec::new();
        for head in 0..width / 64 {
            let columns = head * 64..(head + 1) * 64;
            let mut of_head = Vec::new();
            for (i, q) in q.iter().enumerate() {
                let end = if causal { i + 1 } else { k.len() };
                let scores: Vec<f64> = k[..end]
                    .iter()
                    .map(|k| columns.clone().map(|c| q[c] * k[c]).sum::<f64>() / 8.0)
                    .collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                let row: Vec<f64> = scores.iter().map(|s| (s - top).exp() / sum).collect();
                for c in columns.clone() {
                    out[i][c] = row.iter().zip(&v).map(|(w, v)| w * v[c]).sum();
                }
                of_head.push(row);
            }
            weights.push(of_head);
        }
        (self.linear(&out, &format!("{name}.out"), true), weights)
    }

    fn convolution(&mut self, x: &Matrix, name: &str, stride: usize) -> Matrix {
        let (w, b) = (
            self.get(&format!("{name}.weight")),
            self.get(&format!("{name}.bias")).values,
        );
        let inputs = w.columns / 3;
        (0..x.len() / stride)
            .map(|t| {
                (0..w.rows)
                    .map(|o| {
                        let mut sum = f64::from(b[o]);
                        for tap in 0..3 {
                            let Some(row) = (t * stride + tap).checked_sub(1).and_then(|t| x.get(t)) else {
                                continue;
                            };
                            for (i, x) in row.iter().enumerate() {
                                sum += x * f64::from(w.values[(o * inputs + i) * 3 + tap]);
                            }
                        }
                        gelu(sum)
                    })
                    .collect()
            })
            .collect()
    }

    fn mlp(&mut self, x: &Matrix, name: &str) -> Matrix {
        let mut inner = self.linear(x, &format!("{name}.mlp.0"), true);
        inner.iter_mut().flatten().for_each(|x| *x = gelu(*x));
        self.linear(&inner, &format!("{name}.mlp.2"), true)
    }

    fn encode(&mut self, mel: &[f32], positions: usize) -> Matrix {
        let frames = mel.len() / SHAPE.n_mels;
        let at = |band: usize, frame: usize| {
            if frame < frames {
                f64::from(mel[band * frames + frame])
            } else {
                0.0
            }
        };
        let x: Matrix = (0..2 * positions)
            .map(|t| (0..SHAPE.n_mels).map(|band| at(band, t)).collect())
            .collect();
        let x = self.convolution(&x, "encoder.conv1", 1);
        let mut x = self.convolution(&x, "encoder.conv2", 2);
        let embedding = self.get("encoder.positional_embedding");
        for (t, row) in x.iter_mut().enumerate() {
            for (c, x) in row.iter_mut().enumerate() {
                *x += f64::from(embedding.values[t * SHAPE.audio_state + c]);
            }
        }
        for layer in 0..SHAPE.audio_layers {
            let name = format!("encoder.blocks.{layer}");
            let normal = self.norm(&x, &format!("{name}.attn_ln"));
            add(
                &mut x,
                &self.attention(&normal, &normal, &format!("{name}.attn"), false).0,
            );
            let normal = self.norm(&x, &format!("{name}.mlp_ln"));
            add(&mut x, &self.mlp(&normal, &name));
        }
        self.norm(&x, "encoder.ln_post")
    }

    /// Logits of every token, and cross-attention weights by layer and head.
    fn decode(&mut self, audio: &Matrix, tokens: &[u32]) -> (Matrix, Vec<Vec<Matrix>>) {
        let (embedding, positions) = (
            self.get("decoder.token_embedding.weight"),
            self.get("decoder.positional_embedding"),
        );
        let width = SHAPE.text_state;
        let mut x: Matrix = tokens
            .iter()
            .enumerate()
            .map(|(t, token)| {
                (0..width)
                    .map(|c| {
                        f64::from(embedding.values[*token as usize * width + c])
                            + f64::from(positions.values[t * width + c])
                    })
                    .collect()
            })
            .collect();
        let mut weights = Vec::new();
        for layer in 0..SHAPE.text_layers {
            let name = format!("decoder.blocks.{layer}");
            let normal = self.norm(&x, &format!("{name}.attn_ln"));
            add(
                &mut x,
                &self.attention(&normal, &normal, &format!("{name}.attn"), true).0,
            );
            let normal = self.norm(&x, &format!("{name}.cross_attn_ln"));
            let (out, of_layer) = self.attention(&normal, audio, &format!("{name}.cross_attn"), false);
            weights.push(of_layer);
            add(&mut x, &out);
            let normal = self.norm(&x, &format!("{name}.mlp_ln"));
            add(&mut x, &self.mlp(&normal, &name));
        }
        let x = self.norm(&x, "decoder.ln");
        (self.linear(&x, "decoder.token_embedding", false), weights)
    }
}

fn add(x: &mut Matrix, y: &Matrix) {
    for (x, y) in x.iter_mut().flatten().zip(y.iter().flatten()) {
        *x += y;
    }
}

fn gelu(x: f64) -> f64 {
    // The error function by its Taylor series; far out it is 1.
    let z = x / std::f64::consts::SQRT_2;
    if z.abs() > 5.0 {
        return if x > 0.0 { x } else { 0.0 };
    }
    let (mut term, mut sum) = (z, z);
    for n in 1..150 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    0.5 * x * (1.0 + sum * 2.0 / std::f64::consts::PI.sqrt())
}

fn weights(isa: Isa, precision: Precision) -> Weights {
    Weights::pack(SHAPE, precision, isa, &mut RandomTensors::new(SHAPE, 7)).expect("packs")
}

fn available() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available()).collect()
}

fn mel(positions: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..SHAPE.n_mels * 2 * positions)
        .map(|_| random.normal())
        .collect()
}

fn encode(weights: &Weights, team: &mut Team, mel: &[f32], positions: usize) -> Encoded {
    weights.encode(team, mel, positions, &|| false).expect("encodes")
}

/// Relative error of all values together.
fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference: f64 = got
        .iter()
        .zip(want)
        .map(|(g, w)| (f64::from(*g) - w).powi(2))
        .sum();
    (difference / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

const TOKENS: [u32; 21] = [
    5, 150, 0, 77, 3, 9, 9, 9, 140, 11, 60, 61, 62, 1, 2, 8, 33, 149, 20, 21, 22,
];

#[test]
fn every_format_and_set_gives_the_logits_of_the_definition() {
    let mut plain = Plain::new();
    for positions in [1, 2, 31, 49, 120] {
        let mel = mel(positions, 3);
        let audio = plain.encode(&mel, positions);
        let (want, want_attention) = plain.decode(&audio, &TOKENS);
        let want: Vec<f64> = want.into_iter().flatten().collect();
        for isa in available() {
            for (precision, most) in [
                (Precision::F32, 2e-5),
                (Precision::Bf16, 0.02),
                (Precision::Int8Block64, 0.04),
                (Precision::Int8Row, 0.06),
            ] {
                let weights = weights(isa, precision);
                let mut team = Team::new(2);
                let output = weights
                    .encoder_output(&mut team, &mel, positions)
                    .expect("encodes");
                let error_audio = error(&output, &audio.concat());
                assert!(
                    error_audio < most,
                    "{} {} {positions} audio: {error_audio}",
                    isa.name(),
                    precision.name()
                );
                let encoded = encode(&weights, &mut team, &mel, positions);
                let mut sequence = Sequence::new(&weights);
                let mut logits = vec![0.0; TOKENS.len() * SHAPE.n_vocab];
                let row = Row {
                    encoded: &encoded,
                    sequence: &mut sequence,
                    tokens: &TOKENS,
                    logits: Logits::All,
                };
                weights.step(&mut team, &mut [row], &mut logits).expect("steps");
                let error_all = error(&logits, &want);
                assert!(
                    error_all < most,
                    "{} {} {positions}: {error_all}",
                    isa.name(),
                    precision.name()
                );

                let heads = [(1, 2), (0, 0), (1, 2)];
                let attention = weights
                    .attend(&mut team, &encoded, &TOKENS, &heads)
                    .expect("attends");
                let want: Vec<f64> = heads
                    .iter()
                    .flat_map(|(layer, head)| want_attention[*layer][*head].iter().flatten().copied())
                    .collect();
                let error = error(&attention, &want);
                assert!(
                    error < 3.0 * most,
                    "{} {} attention: {error}",
                    isa.name(),
                    precision.name()
                );
            }
        }
    }
}

#[test]
fn token_by_token_equals_all_at_once_in_batches_forks_and_after_truncation() {
    for precision in Precision::ALL {
        let weights = weights(Isa::detect(), precision);
        let mut team = Team::new(3);
        let windows: Vec<(Encoded, usize)> = [40, 17, 120]
            .into_iter()
            .enumerate()
            .map(|(i, positions)| {
                (
                    encode(&weights, &mut team, &mel(positions, i as u64), positions),
                    positions,
                )
            })
            .collect();
        let alone: Vec<Vec<f32>> = windows
            .iter()
            .map(|(encoded, _)| {
                let mut sequence = Sequence::new(&weights);
                let mut logits = vec![0.0; TOKENS.len() * SHAPE.n_vocab];
                let row = Row {
                    encoded,
                    sequence: &mut sequence,
                    tokens: &TOKENS,
                    logits: Logits::All,
                };
                weights.step(&mut team, &mut [row], &mut logits).expect("steps");
                logits
            })
            .collect();
        let mut sequences: Vec<Sequence> = windows.iter().map(|_| Sequence::new(&weights)).collect();
        let mut logits = vec![0.0; 4 * SHAPE.n_vocab];
        let mut fork = Sequence::new(&weights);
        for (step, token) in TOKENS.iter().enumerate() {
            // A fork that strays must not disturb what it came from.
            fork.fork_from(&sequences[0]);
            let mut rows: Vec<Row<'_>> = sequences
                .iter_mut()
                .zip(&windows)
                .map(|(sequence, (encoded, _))| Row {
                    encoded,
                    sequence,
                    tokens: std::slice::from_ref(token),
                    logits: Logits::Last,
                })
                .collect();
            let encoded = &windows[0].0;
            rows.push(Row {
                encoded,
                sequence: &mut fork,
                tokens: &[123],
                logits: Logits::None,
            });
            assert_eq!(weights.step(&mut team, &mut rows, &mut logits), Ok(3));
            for (window, alone) in alone.iter().enumerate() {
                let got = &logits[window * SHAPE.n_vocab..][..SHAPE.n_vocab];
                let want: Vec<f64> = alone[step * SHAPE.n_vocab..][..SHAPE.n_vocab]
                    .iter()
                    .map(|x| f64::from(*x))
                    .collect();
                let error = error(got, &want);
                assert!(
                    error < 1e-5,
                    "{} step {step} window {window}: {error}",
                    precision.name()
                );
            }
        }
        for keep in [20, 16, 7, 0] {
            let (mut again, mut other) = (Sequence::new(&weights), Sequence::new(&weights));
            again.fork_from(&sequences[1]);
            again.truncate(keep);
            other.fork_from(&again);
            let mut logits = vec![0.0; SHAPE.n_vocab];
            for sequence in [&mut other, &mut again] {
                let encoded = &windows[1].0;
                let row = Row {
                    encoded,
                    sequence,
                    tokens: &TOKENS[keep..],
                    logits: Logits::Last,
                };
                weights.step(&mut team, &mut [row], &mut logits).expect("steps");
                let last = &alone[1][(TOKENS.len() - 1) * SHAPE.n_vocab..];
                let want: Vec<f64> = last.iter().map(|x| f64::from(*x)).collect();
                assert!(error(&logits, &want) < 1e-5, "{} after {keep}", precision.name());
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads_or_on_what_ran_before() {
    for precision in Precision::ALL {
        let weights = weights(Isa::detect(), precision);
        let run = |team: &mut Team, positions: usize, seed: u64| -> Vec<f32> {
            let encoded = encode(&weights, team, &mel(positions, seed), positions);
            let mut sequence = Sequence::new(&weights);
            let mut logits = vec![0.0; SHAPE.n_vocab];
            let row = Row {
                encoded: &encoded,
                sequence: &mut sequence,
                tokens: &TOKENS,
                logits: Logits::Last,
            };
            weights.step(team, &mut [row], &mut logits).expect("steps");
            logits
        };
        let first = run(&mut Team::new(1), 33, 1);
        let mut team = Team::new(4);
        for (positions, seed) in [(120, 9), (33, 1), (5, 2), (33, 1), (64, 4), (33, 1)] {
            let again = run(&mut team, positions, seed);
            if (positions, seed) == (33, 1) {
                assert_eq!(first, again, "{}", precision.name());
            }
        }
    }
}

/// A checkpoint with one tensor a row too short.
struct Short(RandomTensors);
impl Tensors for Short {
    fn tensor(&mut self, name: &str) -> Result<Tensor, LoadError> {
        let mut tensor = self.0.tensor(name)?;
        if name == "encoder.blocks.1.mlp.0.weight" {
            tensor.rows -= 1;
        }
        Ok(tensor)
    }
}

#[test]
fn packed_bytes_open_again_and_are_the_same_every_time() {
    let one = weights(Isa::detect(), Precision::Int8Block64);
    let two = weights(Isa::Portable, Precision::Int8Block64);
    assert!(one.bytes() == two.bytes());
    assert_eq!(
        Weights::packed_len(&SHAPE, Precision::Int8Block64).expect("a length"),
        one.bytes().len()
    );

    let short = std::sync::Arc::new(vec![0u8; 100]);
    let error = Weights::open(SHAPE, Precision::F32, Isa::detect(), short)
        .err()
        .expect("too short");
    assert!(matches!(error, LoadError::Region(_)), "{error}");
    let odd = Shape {
        audio_state: 100,
        ..SHAPE
    };
    assert!(matches!(
        Weights::packed_len(&odd, Precision::F32),
        Err(LoadError::Unsupported(_))
    ));

    let mut short = Short(RandomTensors::new(SHAPE, 7));
    let error = Weights::pack(SHAPE, Precision::Bf16, Isa::detect(), &mut short)
        .err()
        .expect("refused");
    assert_eq!(
        error.to_string(),
        "tensor `encoder.blocks.1.mlp.0.weight` has 511 x 128 values, expected 512 x 128"
    );
}

#[test]
fn odd_input_is_refused_by_name_and_changes_nothing() {
    let weights = weights(Isa::detect(), Precision::Int8Row);
    let mut team = Team::new(2);
    for positions in [0, 121, usize::MAX] {
        let error = weights.encode(&mut team, &mel(4, 1), positions, &|| false).err();
        assert_eq!(error, Some(EncodeError::Positions { positions, most: 120 }));
    }
    let error = weights.encode(&mut team, &[0.0; 17], 4, &|| false).err();
    assert_eq!(error, Some(EncodeError::Mel { len: 17, n_mels: 16 }));
    for mel in [
        vec![],
        vec![0.0; 16],
        mel(120, 1),
        vec![f32::NAN; 160],
        vec![f32::MAX; 160],
    ] {
        assert_eq!(encode(&weights, &mut team, &mel, 7).positions(), 7);
    }
    let encoded = encode(&weights, &mut team, &mel(4, 1), 4);
    let mut sequence = Sequence::new(&weights);
    let mut logits = vec![0.0; SHAPE.n_vocab];
    let mut step = |tokens: &[u32], logits_of: Logits| {
        let row = Row {
            encoded: &encoded,
            sequence: &mut sequence,
            tokens,
            logits: logits_of,
        };
        let result = weights.step(&mut team, &mut [row], &mut logits);
        (result, sequence.len())
    };
    assert_eq!(step(&[], Logits::Last), (Err(StepError::Empty), 0));
    assert_eq!(
        step(&[151], Logits::Last),
        (
            Err(StepError::Token {
                token: 151,
                n_vocab: 151
            }),
            0
        )
    );
    assert_eq!(
        step(&[1; 51], Logits::Last),
        (Err(StepError::TooLong { len: 51, most: 50 }), 0)
    );
    assert_eq!(
        step(&[1; 2], Logits::All),
        (
            Err(StepError::Room {
                room: 151,
                needed: 302
            }),
            0
        )
    );
    assert_eq!(step(&[1; 50], Logits::Last), (Ok(1), 50));
    assert_eq!(
        step(&[1], Logits::None),
        (Err(StepError::TooLong { len: 51, most: 50 }), 50)
    );
    let error = weights.attend(&mut team, &encoded, &[1], &[(2, 0)]).err();
    assert_eq!(error, Some(StepError::Head { layer: 2, head: 0 }));
    assert_eq!(
        weights.attend(&mut team, &encoded, &[], &[(0, 0)]),
        Err(StepError::Empty)
    );
}

#[test]
fn cancelling_ends_an_encode_and_leaves_the_team_fit() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let weights = weights(Isa::detect(), Precision::Int8Row);
    for threads in [1, 2] {
        let mut team = Team::new(threads);
        let mel = mel(120, 1);
        let asked = AtomicUsize::new(0);
        let count = || asked.fetch_add(1, Ordering::Relaxed) >= usize::MAX - 1;
        assert!(weights.encode(&mut team, &mel, 120, &count).is_ok());
        assert!(
            asked.load(Ordering::Relaxed) > SHAPE.audio_layers,
            "asked within the layers"
        );
        for limit in [0, 1, 3] {
            let asked = AtomicUsize::new(0);
            let stop = || asked.fetch_add(1, Ordering::Relaxed) >= limit;
            let error = weights.encode(&mut team, &mel, 120, &stop).err();
            assert_eq!(error, Some(EncodeError::Cancelled));
        }
        assert!(weights.encode(&mut team, &mel, 120, &|| false).is_ok());
    }
}

#[test]
fn two_teams_work_side_by_side_on_one_model() {
    let weights = weights(Isa::detect(), Precision::Int8Block64);
    let run = |seed: u64| -> Vec<f32> {
        let mut team = Team::new(1 + (seed % 2) as usize);
        let mut logits = vec![0.0; SHAPE.n_vocab];
        for _ in 0..20 {
            let encoded = encode(&weights, &mut team, &mel(60, seed), 60);
            let mut sequence = Sequence::new(&weights);
            let row = Row {
                encoded: &encoded,
                sequence: &mut sequence,
                tokens: &TOKENS,
                logits: Logits::Last,
            };
            weights.step(&mut team, &mut [row], &mut logits).expect("steps");
        }
        logits
    };
    let alone: Vec<Vec<f32>> = (0..4).map(run).collect();
    let together: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || run(seed))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    assert_eq!(alone, together);
}
