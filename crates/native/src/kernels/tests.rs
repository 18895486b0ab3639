//! Every kernel of every instruction set of this processor against plain Rust, and plain Rust against arithmetic in `f64`.

use super::*;
use crate::buffer::Buffer;
use crate::pack;
use crate::random::Random;

fn sets() -> impl Iterator<Item = (Isa, &'static Kernels)> {
    Isa::ALL
        .into_iter()
        .filter(|isa| isa.available())
        .map(|isa| (isa, Kernels::of(isa)))
}

/// Values with what breaks kernels: zeros, whole rows of zeros, lone giants, tiny values, all-extreme rows.
fn values(random: &mut Random, count: usize, row: usize) -> Vec<f32> {
    let mut values: Vec<f32> = (0..count).map(|_| random.normal()).collect();
    for row in values.chunks_mut(row) {
        match random.below(9) {
            0 => row.fill(0.0),
            1 => row.fill(if random.below(2) == 0 { 3.0 } else { -3.0 }),
            2 => row[random.below(row.len())] = 1000.0,
            3 => row.iter_mut().for_each(|x| *x *= 1e-20),
            5 => row.iter_mut().for_each(|x| *x *= 1e-39),
            4 => row
                .iter_mut()
                .enumerate()
                .for_each(|(i, x)| *x = if i % 2 == 0 { 5.0 } else { -5.0 }),
            _ => {}
        }
    }
    values
}

struct Case {
    m: usize,
    n: usize,
    k: usize,
    a: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(random: &mut Random) -> Self {
        let (m, n, k) = (
            1 + random.below(40),
            1 + random.below(100),
            64 * (1 + random.below(9)),
        );
        let (a, w) = (values(random, m * k, k), values(random, n * k, k));
        let bias = values(random, n, n);
        Self { m, n, k, a, w, bias }
    }

    /// The product by a set of kernels; whole panels only if there is an epilogue.
    fn run(&self, kernels: &Kernels, format: Precision, epilogue: Epilogue, before: &[f32]) -> Vec<f32> {
        let (region, at) = pack::matrix(format, self.n, self.k, &self.w, &self.bias);
        let matrix = at.of(region.bytes().as_ptr());
        let stride = kernels.row(format, self.k);
        let rows = Buffer::new(self.m * stride + 64);
        let mut out = before.to_vec();
        let quantise = Quantise {
            from: self.a.as_ptr(),
            from_stride: self.k,
            count: self.m,
            k: self.k,
            to: rows.shared().0,
            to_stride: stride,
        };
        let product = Product {
            rows: Rows {
                start: rows.shared().0,
                stride,
                count: self.m,
            },
            matrix,
            first_panel: 0,
            end_panel: matrix.panels(),
            out: out.as_mut_ptr(),
            out_stride: self.n,
            epilogue,
        };
        // SAFETY: the set is available; all pointers are to buffers of the sizes that the kernels ask for.
        unsafe {
            kernels.quantise(format)(&quantise);
            kernels.product(format)(&product);
        }
        out
    }

    /// The same in `f64`, from values rounded as the format says.
    fn expected(&self, format: Precision) -> Vec<f64> {
        let block = if format == Precision::Int8Block64 {
            BLOCK
        } else {
            self.k
        };
        let round = |row: &[f32]| -> Vec<f64> {
            match format {
                Precision::Int8Row | Precision::Int8Block64 => row
                    .chunks(block)
                    .flat_map(|block| {
                        let largest = block.iter().fold(0.0f32, |l, x| l.max(x.abs()));
                        let inverse = if largest > SMALLEST { 127.0 / largest } else { 0.0 };
                        let scale = f64::from(largest / 127.0);
                        block
                            .iter()
                            .map(move |x| f64::from((x * inverse).round_ties_even()) * scale)
                    })
                    .collect(),
                _ => row.iter().map(|x| f64::from(*x)).collect(),
            }
        };
        let weights: Vec<Vec<f64>> = self
            .w
            .chunks(self.k)
            .map(|row| {
                if format == Precision::Bf16 {
                    row.iter()
                        .map(|x| f64::from(f32::from_bits(u32::from(bf16(*x)) << 16)))
                        .collect()
                } else {
                    round(row)
                }
            })
            .collect();
        let mut out = Vec::with_capacity(self.m * self.n);
        for a in self.a.chunks(self.k) {
            let a = round(a);
            for (w, bias) in weights.iter().zip(&self.bias) {
                let dot: f64 = a.iter().zip(w).map(|(a, w)| a * w).sum();
                out.push(dot + f64::from(*bias));
            }
        }
        out
    }

    /// The largest that a value of each row can be: what errors are measured against.
    fn sizes(&self) -> Vec<f64> {
        let norm = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let w: Vec<f64> = self.w.chunks(self.k).map(norm).collect();
        let mut out = Vec::new();
        for a in self.a.chunks(self.k) {
            out.extend(
                w.iter()
                    .zip(&self.bias)
                    .map(|(w, bias)| norm(a) * w + f64::from(bias.abs()) + 1e-30),
            );
        }
        out
    }
}

#[test]
fn products_of_every_set_are_those_of_f64_arithmetic() {
    let mut random = Random::new(1);
    for round in 0..60 {
        let case = Case::new(&mut random);
        for format in Precision::ALL {
            let (expected, sizes) = (case.expected(format), case.sizes());
            for (isa, kernels) in sets() {
                // bfloat16 activations are rounded to 8 bits.
                let tolerance = if format == Precision::Bf16 && kernels.bf16_bytes == 2 {
                    4e-3
                } else {
                    2e-6
                };
                let got = case.run(kernels, format, Epilogue::Store, &vec![f32::NAN; case.m * case.n]);
                for ((got, expected), size) in got.iter().zip(&expected).zip(&sizes) {
                    let error = (f64::from(*got) - expected).abs() / size;
                    assert!(
                        error < tolerance,
                        "{round}: {} {} {}x{}x{}: {got} for {expected}",
                        isa.name(),
                        format.name(),
                        case.m,
                        case.k,
                        case.n
                    );
                }
            }
        }
    }
}

#[test]
fn integer_rows_are_the_same_in_every_set() {
    let mut random = Random::new(2);
    for _ in 0..20 {
        let case = Case::new(&mut random);
        let (before, sizes) = (vec![0.0; case.m * case.n], case.sizes());
        for format in [Precision::Int8Row, Precision::Int8Block64] {
            let plain = case.run(&portable::KERNELS, format, Epilogue::Store, &before);
            for (isa, kernels) in sets() {
                let got = case.run(kernels, format, Epilogue::Store, &before);
                for (index, (got, plain)) in got.iter().zip(&plain).enumerate() {
                    assert!(
                        (got - plain).abs() <= 1e-6 * sizes[index] as f32,
                        "{} {}",
                        isa.name(),
                        format.name()
                    );
                }
            }
        }
    }
}

#[test]
fn epilogues_do_to_a_product_what_they_say() {
    let mut random = Random::new(3);
    for _ in 0..20 {
        let mut case = Case::new(&mut random);
        let n = case.n.next_multiple_of(PANEL);
        case.w.resize(n * case.k, 0.01);
        case.bias.resize(n, 0.5);
        case.n = n;
        let more: Vec<f32> = (0..case.m * n).map(|_| random.normal()).collect();
        let erf = |x: f64| libm_erf(x);
        let gelu =
            |x: f32| (f64::from(x) * 0.5 * (1.0 + erf(f64::from(x) / std::f64::consts::SQRT_2))) as f32;
        for (isa, kernels) in sets() {
            for format in [Precision::Int8Row, Precision::Int8Block64, Precision::F32] {
                let stored = case.run(kernels, format, Epilogue::Store, &more);
                let check = |epilogue, want: &dyn Fn(usize) -> f32| {
                    let got = case.run(kernels, format, epilogue, &more);
                    for (index, got) in got.iter().enumerate() {
                        let want = want(index);
                        let error = (got - want).abs() / (1.0 + want.abs());
                        assert!(error < 2e-6, "{} {}: {got} for {want}", isa.name(), format.name());
                    }
                };
                check(Epilogue::Add, &|i| stored[i] + more[i]);
                check(Epilogue::Gelu, &|i| gelu(stored[i]));
                check(
                    Epilogue::GeluAdd {
                        more: more.as_ptr(),
                        stride: n,
                    },
                    &|i| gelu(stored[i]) + more[i],
                );
                check(
                    Epilogue::Scale {
                        channels: PANEL,
                        by: 0.3,
                    },
                    &|i| {
                        if i % n < PANEL { stored[i] * 0.3 } else { stored[i] }
                    },
                );
            }
        }
    }
}

/// The error function by its Taylor series and, further out, its continued fraction: independent of the kernels' formula.
fn libm_erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let z = x.abs();
    let mut fraction = 0.0;
    for n in (1..60).rev() {
        fraction = f64::from(n) / 2.0 / (z + fraction);
    }
    let rest = (-z * z).exp() / ((z + fraction) * std::f64::consts::PI.sqrt());
    (1.0 - rest).copysign(x)
}

#[test]
fn norms_have_mean_and_variance_of_their_weights() {
    let mut random = Random::new(4);
    for _ in 0..30 {
        let k = 16 * (1 + random.below(80));
        let x: Vec<f32> = (0..k).map(|_| random.normal() * 3.0 + 1.0).collect();
        let (weight, bias) = (values(&mut random, k, k), values(&mut random, k, k));
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / k as f64;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / k as f64;
        for (isa, kernels) in sets() {
            let mut out = vec![0.0f32; k];
            // SAFETY: all four hold `k` values.
            unsafe { (kernels.layer_norm)(out.as_mut_ptr(), x.as_ptr(), weight.as_ptr(), bias.as_ptr(), k) };
            for i in 0..k {
                let normal = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt();
                let want = normal * f64::from(weight[i]) + f64::from(bias[i]);
                let error = (f64::from(out[i]) - want).abs() / (1.0 + want.abs());
                assert!(error < 1e-5, "{}: {} for {want}", isa.name(), out[i]);
            }
        }
    }
}

/// Softmax(q k) v in `f64` for one row: (weights, output).
fn attention(q: &[f32], keys: &[f32], values: &[f32], count: usize) -> (Vec<f64>, Vec<f64>) {
    let dot = |p: usize| {
        (0..64)
            .map(|i| f64::from(q[i]) * f64::from(keys[p * 64 + i]))
            .sum::<f64>()
    };
    let scores: Vec<f64> = (0..count).map(dot).collect();
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp2()).collect();
    let sum: f64 = weights.iter().sum();
    let weights: Vec<f64> = weights.iter().map(|w| w / sum).collect();
    let out = (0..64)
        .map(|i| {
            (0..count)
                .map(|p| weights[p] * f64::from(values[p * 64 + i]))
                .sum()
        })
        .collect();
    (weights, out)
}

/// Values as 8-bit integers with a scale for each 64.
fn rounded(values: &[f32]) -> Vec<f32> {
    let head = |values: &[f32]| {
        let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let scale = largest / 127.0;
        let inverse = 127.0 / largest;
        let round = move |x: &f32| (x * inverse).round_ties_even() * scale;
        values.iter().map(round).collect::<Vec<f32>>()
    };
    values.chunks(64).flat_map(head).collect()
}

#[test]
fn attention_is_softmax_over_exactly_the_positions_of_the_window() {
    let mut random = Random::new(5);
    for round in 0..40 {
        let (rows, positions) = (1 + random.below(30), 1 + random.below(150));
        let padded = positions.next_multiple_of(PANEL);
        let q: Vec<f32> = (0..rows * 64).map(|_| random.normal()).collect();
        let keys: Vec<f32> = (0..positions * 64).map(|_| random.normal()).collect();
        let values: Vec<f32> = (0..positions * 64).map(|_| random.normal()).collect();
        for (isa, kernels) in sets() {
            for format in [Precision::Bf16, Precision::F32, Precision::Int8Row] {
                // What was there before must not shine through: all ones are not-a-number in both formats.
                let (mut k, mut v) = (Buffer::new(padded * 256), Buffer::new(padded * 256));
                k.bytes_mut().fill(0xff);
                v.bytes_mut().fill(0xff);
                let mut scales = vec![f32::NAN; 2 * padded];
                // In two pieces, as two chunks of the encoder would.
                let cut = (positions / 2).next_multiple_of(4).min(positions);
                for (first, count) in [(0, cut), (cut, positions - cut)] {
                    let pack = PackHeads {
                        keys_from: keys[first * 64..].as_ptr(),
                        values_from: values[first * 64..].as_ptr(),
                        from_stride: 64,
                        heads: 1,
                        first,
                        count,
                        positions,
                        padded,
                        keys: k.shared().0.cast(),
                        values: v.shared().0.cast(),
                        scales: scales.as_mut_ptr(),
                    };
                    // SAFETY: the buffers hold `padded` positions of 64 channels.
                    unsafe { kernels.pack_heads(format)(&pack) };
                }
                // Queries are not rounded to 8 bits.
                let of_queries = if format == Precision::Int8Row {
                    Precision::F32
                } else {
                    format
                };
                let stride = kernels.row(of_queries, 64);
                let queries = Buffer::new(rows * stride);
                let quantise = Quantise {
                    from: q.as_ptr(),
                    from_stride: 64,
                    count: rows,
                    k: 64,
                    to: queries.shared().0,
                    to_stride: stride,
                };
                let scratch = Buffer::new(attend_scratch(padded));
                let (mut out, mut weights) = (vec![0.0f32; rows * 64], vec![0.0f32; rows * positions]);
                let attend = Attend {
                    queries: Rows {
                        start: queries.shared().0,
                        stride,
                        count: rows,
                    },
                    head: Head {
                        keys: k.shared().0.cast(),
                        values: v.shared().0.cast(),
                        scales: scales.as_ptr(),
                        positions,
                        padded,
                    },
                    out: out.as_mut_ptr(),
                    out_stride: 64,
                    scratch: scratch.shared().0,
                    weights: weights.as_mut_ptr(),
                    weights_stride: positions,
                };
                // SAFETY: all buffers have the sizes that the fields say.
                unsafe {
                    kernels.quantise(of_queries)(&quantise);
                    kernels.attend(format)(&attend);
                }
                let tolerance = match format {
                    Precision::F32 => 1e-5,
                    Precision::Bf16 => 0.06,
                    // Beside what was packed; the other side of the products has 16 bits.
                    Precision::Int8Row | Precision::Int8Block64 => 2e-3,
                };
                let (keys, values) = if format == Precision::Int8Row {
                    (rounded(&keys), rounded(&values))
                } else {
                    (keys.clone(), values.clone())
                };
                for row in 0..rows {
                    let (want_weights, want) = attention(&q[row * 64..], &keys, &values, positions);
                    for (got, want) in out[row * 64..][..64].iter().zip(&want) {
                        let error = (f64::from(*got) - want).abs();
                        assert!(
                            error < tolerance,
                            "{round} {} {}: {got} for {want}",
                            isa.name(),
                            format.name()
                        );
                    }
                    for (got, want) in weights[row * positions..][..positions].iter().zip(&want_weights) {
                        assert!(
                            (f64::from(*got) - want).abs() < tolerance,
                            "{} weights",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn attention_to_tokens_is_attention_over_what_was_kept_of_them() {
    let mut random = Random::new(6);
    for _ in 0..30 {
        let (count, at) = (1 + random.below(70), 64 * random.below(3));
        let q: Vec<f32> = (0..64).map(|_| random.normal()).collect();
        let keys: Vec<f32> = (0..count * 64).map(|_| random.normal()).collect();
        let values: Vec<f32> = (0..count * 64).map(|_| random.normal()).collect();
        for format in [Precision::Bf16, Precision::F32] {
            let round = |values: &[f32]| -> Vec<f32> {
                let narrow = |x: &f32| f32::from_bits(u32::from(bf16(*x)) << 16);
                if format == Precision::F32 {
                    values.to_vec()
                } else {
                    values.iter().map(narrow).collect()
                }
            };
            let (_, want) = attention(&q, &round(&keys), &round(&values), count);
            for (isa, kernels) in sets() {
                let bytes = 128 * format.number();
                let mut kept: Vec<Vec<u8>> = vec![vec![0xff; at + bytes]; count];
                let tokens: Vec<*mut u8> = kept.iter_mut().map(Vec::as_mut_ptr).collect();
                let (mut out, mut scores) = (vec![0.0f32; 64], vec![f32::NAN; count.next_multiple_of(16)]);
                for (token, to) in tokens.iter().enumerate() {
                    let store = StoreToken {
                        key: keys[token * 64..].as_ptr(),
                        value: values[token * 64..].as_ptr(),
                        to: to.wrapping_add(at),
                    };
                    // SAFETY: there is room for 128 numbers.
                    unsafe { kernels.store_token(format)(&store) };
                }
                let attend = AttendTokens {
                    query: q.as_ptr(),
                    tokens: tokens.as_ptr(),
                    at,
                    count,
                    out: out.as_mut_ptr(),
                    scores: scores.as_mut_ptr(),
                };
                // SAFETY: `count` tokens were kept, and all buffers have the sizes that the fields say.
                unsafe { kernels.attend_tokens(format)(&attend) };
                for (got, want) in out.iter().zip(&want) {
                    assert!(
                        (f64::from(*got) - want).abs() < 1e-5,
                        "{} {}: {got} for {want}",
                        isa.name(),
                        format.name()
                    );
                }
                let untouched = kept
                    .iter()
                    .all(|kept| kept[..at].iter().all(|byte| *byte == 0xff));
                assert!(untouched, "{} wrote before its place", isa.name());
            }
        }
    }
}
