//! When each token was spoken, from where the decoder looked (openai-whisper `timing.py`).

use crate::Shape;

/// Width of the median filter over time (`medfilt_width`).
const MEDIAN: usize = 7;
/// Positions of the encoder in a second (`TOKENS_PER_SECOND`).
const POSITIONS_PER_SECOND: f32 = 50.0;

/// The (layer, head) pairs of a published model that follow the sound (openai-whisper `_ALIGNMENT_HEADS`), by its shape.
/// `None` for shapes that were never published.
pub fn alignment_heads(shape: &Shape) -> Option<&'static [(usize, usize)]> {
    let multilingual = shape.n_vocab >= 51_865;
    let heads: &[(usize, usize)] = match (shape.audio_layers, shape.text_layers, multilingual) {
        (4, 4, false) => &[(1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)],
        (4, 4, true) => &[(2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5)],
        (6, 6, false) => &[(3, 3), (4, 7), (5, 1), (5, 5), (5, 7)],
        (6, 6, true) => &[(3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6)],
        (12, 12, false) => &[
            (6, 6),
            (7, 0),
            (7, 3),
            (7, 8),
            (8, 2),
            (8, 5),
            (8, 7),
            (9, 0),
            (9, 4),
            (9, 8),
            (9, 10),
            (10, 0),
            (10, 1),
            (10, 2),
            (10, 3),
            (10, 6),
            (10, 11),
            (11, 2),
            (11, 4),
        ],
        (12, 12, true) => &[
            (5, 3),
            (5, 9),
            (8, 0),
            (8, 4),
            (8, 7),
            (8, 8),
            (9, 0),
            (9, 7),
            (9, 9),
            (10, 5),
        ],
        (24, 24, false) => &[
            (11, 4),
            (14, 1),
            (14, 12),
            (14, 14),
            (15, 4),
            (16, 0),
            (16, 4),
            (16, 9),
            (17, 12),
            (17, 14),
            (18, 7),
            (18, 10),
            (18, 15),
            (20, 0),
            (20, 3),
            (20, 9),
            (20, 14),
            (21, 12),
        ],
        (24, 24, true) => &[(13, 15), (15, 4), (15, 15), (16, 1), (20, 0), (23, 4)],
        // large and large-v2 have one shape; v2 replaced the first within weeks.
        (32, 32, true) if shape.n_mels == 80 => &[
            (10, 12),
            (13, 17),
            (16, 11),
            (16, 12),
            (16, 13),
            (17, 15),
            (17, 16),
            (18, 4),
            (18, 11),
            (18, 19),
            (19, 11),
            (21, 2),
            (21, 3),
            (22, 3),
            (22, 9),
            (22, 12),
            (23, 5),
            (23, 7),
            (23, 13),
            (25, 5),
            (26, 1),
            (26, 12),
            (27, 15),
        ],
        (32, 32, true) => &[
            (7, 0),
            (10, 17),
            (12, 18),
            (13, 12),
            (16, 1),
            (17, 14),
            (19, 11),
            (21, 4),
            (24, 1),
            (25, 6),
        ],
        (32, 4, true) => &[(2, 4), (2, 11), (3, 3), (3, 6), (3, 11), (3, 14)],
        _ => return None,
    };
    Some(heads)
}

/// Attention of some heads, as `Weights::attend` gives it.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// `heads x tokens x positions`, row-major; each row sums to 1.
    pub weights: &'a [f32],
    /// Tokens that were run.
    pub tokens: usize,
    /// Positions of the window that was encoded.
    pub positions: usize,
}

/// Seconds at which the tokens from `first` to `end - 1` begin, and at which the last one ends: one value more than
/// tokens. A token is found where the decoder looked while it predicted it, one row before its own. `heard` is how
/// many of the positions hold sound. Empty when there is nothing to align.
pub fn token_times(attention: Attention<'_>, first: usize, end: usize, heard: usize) -> Vec<f32> {
    let Attention {
        weights,
        tokens,
        positions,
    } = attention;
    let heard = heard.min(positions);
    if positions == 0 || tokens == 0 || first == 0 || first >= end || end > tokens || heard == 0 {
        return Vec::new();
    }
    let heads = weights.len() / (tokens * positions);
    let rows = end + 1 - first;
    let mut mean = vec![0.0_f32; rows * heard];
    let mut head = vec![0.0_f32; tokens * heard];
    let mut filtered = vec![0.0_f32; heard];
    for number in 0..heads {
        // Attention to what follows the sound does not count: each row sums to 1 over `heard` alone.
        for token in 0..tokens {
            let from = (number * tokens + token) * positions;
            let row = &weights[from..from + heard];
            let sum: f32 = row.iter().sum();
            let scale = if sum > 0.0 { 1.0 / sum } else { 0.0 };
            for (out, weight) in head[token * heard..].iter_mut().zip(row) {
                *out = weight * scale;
            }
        }
        standardise(&mut head, tokens, heard);
        for row in 0..rows {
            let from = (first - 1 + row) * heard;
            median(&head[from..from + heard], &mut filtered);
            for (sum, value) in mean[row * heard..].iter_mut().zip(&filtered) {
                *sum += value;
            }
        }
    }
    // The path maximises the attention it passes.
    for value in &mut mean {
        *value = -*value / heads.max(1) as f32;
    }
    path(&mean, rows, heard)
        .into_iter()
        .map(|position| position as f32 / POSITIONS_PER_SECOND)
        .collect()
}

/// Mean 0 and deviation 1 over the tokens, at each position.
fn standardise(values: &mut [f32], tokens: usize, positions: usize) {
    for position in 0..positions {
        let column = || (0..tokens).map(move |token| token * positions + position);
        let mean = column().map(|at| values[at]).sum::<f32>() / tokens as f32;
        let variance = column().map(|at| (values[at] - mean).powi(2)).sum::<f32>() / tokens as f32;
        let scale = if variance > 0.0 {
            variance.sqrt().recip()
        } else {
            0.0
        };
        for at in column() {
            values[at] = (values[at] - mean) * scale;
        }
    }
}

/// Median of [`MEDIAN`] neighbours, mirrored at both ends; too short a row stays as it is.
fn median(row: &[f32], out: &mut [f32]) {
    const HALF: usize = MEDIAN / 2;
    if row.len() <= HALF {
        out.copy_from_slice(row);
        return;
    }
    let last = row.len() - 1;
    for (at, out) in out.iter_mut().enumerate() {
        let mut neighbours: [f32; MEDIAN] = std::array::from_fn(|i| {
            let position = (at + i).abs_diff(HALF);
            row[if position > last {
                2 * last - position
            } else {
                position
            }]
        });
        *out = *neighbours.select_nth_unstable_by(HALF, f32::total_cmp).1;
    }
}

/// Dynamic time warping: for each row the column at which the cheapest monotone path enters it.
fn path(costs: &[f32], rows: usize, columns: usize) -> Vec<usize> {
    #[derive(Clone, Copy)]
    enum From {
        Both,
        Row,
        Column,
    }
    let mut trace = vec![From::Column; rows * columns];
    let mut above = vec![f32::INFINITY; columns + 1];
    above[0] = 0.0;
    let mut here = vec![f32::INFINITY; columns + 1];
    for row in 0..rows {
        here[0] = f32::INFINITY;
        for column in 0..columns {
            let (both, up, left) = (above[column], above[column + 1], here[column]);
            // Of equals the step along the row, as there.
            let (least, from) = if both < up && both < left {
                (both, From::Both)
            } else if up < both && up < left {
                (up, From::Row)
            } else {
                (left, From::Column)
            };
            here[column + 1] = costs[row * columns + column] + least;
            trace[row * columns + column] = from;
        }
        std::mem::swap(&mut above, &mut here);
    }
    let mut entries = vec![0; rows];
    let (mut row, mut column) = (rows - 1, columns - 1);
    loop {
        entries[row] = column;
        let from = match (row, column) {
            (0, 0) => break,
            (0, _) => From::Column,
            (_, 0) => From::Row,
            _ => trace[row * columns + column],
        };
        match from {
            From::Both => {
                row -= 1;
                column -= 1;
            }
            From::Row => row -= 1,
            From::Column => column -= 1,
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "values are moved, not computed")]

    use super::*;

    #[test]
    fn every_published_shape_has_heads_that_it_has() {
        for name in ["tiny", "base", "small", "medium", "large-v3", "large-v3-turbo"] {
            let shape = Shape::named(name).unwrap_or_else(|| panic!("{name}"));
            let english = Shape {
                n_vocab: 51_864,
                ..shape
            };
            for shape in [shape, english] {
                let Some(heads) = alignment_heads(&shape) else {
                    assert!(name.starts_with("large"), "{name}");
                    continue;
                };
                assert!(heads.is_sorted() && heads.len() >= 5, "{name}");
                assert!(
                    heads
                        .iter()
                        .all(|(l, h)| *l < shape.text_layers && *h < shape.text_heads),
                    "{name}"
                );
            }
        }
    }

    /// Two heads that look at position `at[row]` while they predict the next token.
    fn looking(at: &[usize], positions: usize) -> Vec<f32> {
        let mut weights = Vec::new();
        for head in 0..2 {
            for &at in at {
                let near = |p: usize| (-((p as f32 - at as f32) / (2.0 + head as f32)).powi(2)).exp() + 1e-4;
                let row: Vec<f32> = (0..positions).map(near).collect();
                let sum: f32 = row.iter().sum();
                weights.extend(row.iter().map(|v| v / sum));
            }
        }
        weights
    }

    #[test]
    fn tokens_begin_where_the_heads_looked() {
        // Start, "no timestamps", three words, end. The row before a token predicts it.
        let at = [0, 20, 60, 100, 140, 190];
        let weights = looking(&at, 300);
        let attention = Attention {
            weights: &weights,
            tokens: 6,
            positions: 300,
        };
        let times = token_times(attention, 2, 5, 200);
        assert_eq!(times.len(), 4);
        assert!(times.is_sorted(), "{times:?}");
        for (time, expected) in times[1..].iter().zip([60.0, 100.0, 140.0]) {
            let expected = (expected - 20.0) / 50.0;
            assert!((time - expected).abs() < 0.45, "{times:?}");
        }
        assert!(times.iter().all(|t| *t < 4.0), "only what was heard counts");
    }

    #[test]
    fn nothing_to_align_gives_nothing() {
        let attention = Attention {
            weights: &[],
            tokens: 0,
            positions: 10,
        };
        assert!(token_times(attention, 1, 2, 10).is_empty());
        let weights = [1.0; 4];
        let attention = Attention {
            weights: &weights,
            tokens: 2,
            positions: 2,
        };
        assert!(token_times(attention, 2, 2, 2).is_empty());
        assert!(token_times(attention, 1, 3, 2).is_empty());
        assert_eq!(token_times(attention, 1, 2, 2).len(), 2);
    }

    #[test]
    fn the_median_filter_mirrors_its_ends() {
        let mut out = [0.0; 8];
        median(&[9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0], &mut out);
        // Around 9: 3 2 1 9 1 2 3 → 2; around the last 0: 4 5 6 0 6 5 4 → 5.
        assert_eq!((out[0], out[7]), (2.0, 5.0));
        let mut short = [0.0; 3];
        median(&[1.0, 5.0, 2.0], &mut short);
        assert_eq!(short, [1.0, 5.0, 2.0]);
    }

    #[test]
    fn the_path_goes_through_the_valley() {
        let valley = [0, 0, 2, 3, 5, 5];
        let costs: Vec<f32> = valley
            .iter()
            .flat_map(|v| (0..6).map(move |c| if c == *v { -1.0 } else { 1.0 }))
            .collect();
        let entries = path(&costs, 6, 6);
        assert!(entries.is_sorted());
        assert_eq!(entries[0], 0);
        assert!(
            entries.iter().zip(valley).all(|(e, v)| e.abs_diff(v) <= 1),
            "{entries:?}"
        );
    }
}
