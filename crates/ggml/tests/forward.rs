//! The graphs against the plain forward pass in `f32`, alone and in company.
//!
//! `WHISPER_GGML_TEST_GPU=1` runs them on the first GPU that ggml lists.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Reference, SHAPE, device, distance, engine, job, mel, options};
use whisper_ggml::{Engine, Error, Logits, Options, Row};
use whisper_native::random::Random;

/// Logits are about 1 in size; binary16 keys, values and products leave some thousandths of it.
const NEAR: f32 = 1e-2;

fn row(slot: usize, hypothesis: usize, tokens: &[u32]) -> Row<'_> {
    Row {
        slot,
        hypothesis,
        tokens,
        logits: Logits::Last,
    }
}

#[test]
fn windows_of_different_length_in_one_graph_have_the_logits_of_the_definition() {
    let mut reference = Reference::new();
    let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % SHAPE.n_vocab as u32).collect();
    for flash in [false, true] {
        let mut engine = engine(options(flash));
        for lengths in [&[33][..], &[300], &[256, 300], &[1, 50, 49, 300]] {
            let mels: Vec<Vec<f32>> = lengths
                .iter()
                .enumerate()
                .map(|(seed, length)| mel(*length, seed as u64))
                .collect();
            let jobs: Vec<_> = mels
                .iter()
                .enumerate()
                .map(|(slot, mel)| job(slot, mel))
                .collect();
            engine.encode(&jobs).unwrap();
            let rows: Vec<Row<'_>> = (0..mels.len())
                .map(|slot| Row {
                    logits: Logits::All,
                    ..row(slot, 0, &tokens)
                })
                .collect();
            let mut logits = Vec::new();
            assert!(engine.step(&rows, &mut logits).unwrap().is_empty());
            for (mel, got) in mels.iter().zip(logits.chunks(tokens.len() * SHAPE.n_vocab)) {
                let encoded = reference.encode(mel);
                let want = reference.logits(&encoded, &tokens);
                let error = distance(got, &want);
                assert!(error < NEAR, "flash {flash}, {lengths:?}: {error}");
            }
        }
    }
}

#[test]
fn token_by_token_in_any_company_equals_all_at_once() {
    let mut reference = Reference::new();
    for flash in [false, true] {
        let mut engine = engine(options(flash));
        let mut random = Random::new(3);
        let mels: Vec<Vec<f32>> = (0..6).map(|i| mel(20 + 47 * i as usize, i)).collect();
        for (slot, mel) in mels.iter().enumerate() {
            engine.encode(&[job(slot, mel)]).unwrap();
        }
        let texts: Vec<Vec<u32>> = (0..6)
            .map(|_| (0..30).map(|_| random.below(SHAPE.n_vocab) as u32).collect())
            .collect();
        let wanted: Vec<Vec<f32>> = mels
            .iter()
            .zip(&texts)
            .map(|(mel, text)| {
                let encoded = reference.encode(mel);
                reference.logits(&encoded, text)
            })
            .collect();
        let mut lens = [0_usize; 6];
        let mut logits = Vec::new();
        while lens.iter().any(|len| *len < 30) {
            // Any of the windows, with one to four tokens each.
            let mut steps = Vec::new();
            for (slot, len) in lens.iter().enumerate() {
                let left = 30 - len;
                if left > 0 && random.below(3) > 0 {
                    let count = if random.below(2) == 0 {
                        1
                    } else {
                        1 + random.below(4)
                    };
                    steps.push((slot, count.min(left)));
                }
            }
            let rows: Vec<Row<'_>> = steps
                .iter()
                .map(|(slot, count)| row(*slot, 0, &texts[*slot][lens[*slot]..lens[*slot] + count]))
                .collect();
            engine.step(&rows, &mut logits).unwrap();
            for ((slot, count), got) in steps.iter().zip(logits.chunks(SHAPE.n_vocab)) {
                lens[*slot] += count;
                let want = &wanted[*slot][(lens[*slot] - 1) * SHAPE.n_vocab..][..SHAPE.n_vocab];
                let error = distance(got, want);
                assert!(
                    error < NEAR,
                    "flash {flash} slot {slot} token {}: {error}",
                    lens[*slot]
                );
            }
        }
    }
}

#[test]
fn hypotheses_fork_and_are_taken_back_without_a_trace() {
    let mut reference = Reference::new();
    let sound = mel(77, 5);
    let encoded = reference.encode(&sound);
    for flash in [false, true] {
        let mut engine = engine(options(flash));
        engine.encode(&[job(2, &sound)]).unwrap();
        let mut texts = vec![vec![5, 6, 7]];
        let mut logits = Vec::new();
        engine.step(&[row(2, 0, &texts[0])], &mut logits).unwrap();
        let mut random = Random::new(11);
        for parents in [
            &[0, 0, 0][..],
            &[2, 0, 1],
            &[1, 1, 1, 0],
            &[3, 2],
            &[0, 1, 0, 1],
            &[3],
        ] {
            engine.rearrange(2, parents).unwrap();
            texts = parents.iter().map(|parent| texts[*parent].clone()).collect();
            let added: Vec<[u32; 1]> = texts
                .iter()
                .map(|_| [random.below(SHAPE.n_vocab) as u32])
                .collect();
            for (text, token) in texts.iter_mut().zip(&added) {
                text.push(token[0]);
            }
            let rows: Vec<Row<'_>> = added
                .iter()
                .enumerate()
                .map(|(number, token)| row(2, number, token))
                .collect();
            engine.step(&rows, &mut logits).unwrap();
            for (text, got) in texts.iter().zip(logits.chunks(SHAPE.n_vocab)) {
                let all = reference.logits(&encoded, text);
                let error = distance(got, &all[(text.len() - 1) * SHAPE.n_vocab..]);
                assert!(error < NEAR, "flash {flash} {parents:?} {text:?}: {error}");
            }
        }
        // The first of them, two tokens back.
        engine.forget(2, 2).unwrap();
        let keep = texts[0].len() - 2;
        texts[0].truncate(keep);
        texts[0].push(99);
        engine.step(&[row(2, 0, &[99])], &mut logits).unwrap();
        let all = reference.logits(&encoded, &texts[0]);
        assert!(distance(&logits, &all[keep * SHAPE.n_vocab..]) < NEAR);
    }
}

#[test]
fn attention_for_word_times_is_that_of_the_definition() {
    let mut reference = Reference::new();
    let sound = mel(120, 9);
    let encoded = reference.encode(&sound);
    let tokens: Vec<u32> = (0..25).map(|i| i * 13 % 331).collect();
    let heads = [(2, 1), (0, 0), (1, 1)];
    let want = reference
        .weights
        .attend(&mut reference.team, &encoded, &tokens, &heads)
        .unwrap();
    for flash in [false, true] {
        let mut engine = engine(options(flash));
        engine.encode(&[job(0, &mel(300, 1)), job(1, &sound)]).unwrap();
        let mut logits = Vec::new();
        engine.step(&[row(1, 0, &[1, 2])], &mut logits).unwrap();
        let got = engine.attend(1, &tokens, &heads).unwrap();
        assert!(distance(&got, &want) < 2e-3, "{}", distance(&got, &want));
        for row in got.chunks(120) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-3);
        }
        // The hypothesis has not moved.
        engine.step(&[row(1, 0, &[3])], &mut logits).unwrap();
        let all = reference.logits(&encoded, &[1, 2, 3]);
        assert!(distance(&logits, &all[2 * SHAPE.n_vocab..]) < NEAR);
    }
}

/// Greedy text of a window: what a server would decode.
fn greedy(engine: &mut Engine, slot: usize, tokens: usize) -> (Vec<u32>, Vec<f32>) {
    let mut logits = Vec::new();
    let (mut text, mut scores) = (vec![1_u32], Vec::new());
    for _ in 0..tokens {
        let last = [text[text.len() - 1]];
        engine.step(&[row(slot, 0, &last)], &mut logits).unwrap();
        let best = (0..SHAPE.n_vocab)
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap();
        text.push(best as u32);
        scores.push(logits[best]);
    }
    (text, scores)
}

#[test]
fn nothing_of_an_earlier_window_is_seen_not_even_what_is_no_number() {
    for flash in [false, true] {
        let mut engine = engine(options(flash));
        let short = mel(40, 1);
        engine.encode(&[job(0, &short)]).unwrap();
        let fresh = greedy(&mut engine, 0, 20);
        // A long window, several hypotheses, a neighbour.
        engine
            .encode(&[job(0, &mel(300, 2)), job(1, &mel(200, 3))])
            .unwrap();
        greedy(&mut engine, 0, 60);
        engine.rearrange(0, &[0, 0, 0]).unwrap();
        engine.encode(&[job(0, &short)]).unwrap();
        assert_eq!(greedy(&mut engine, 0, 20), fresh);
        // One that overflows, with a neighbour in the same graphs.
        let loud = vec![1e30_f32; SHAPE.n_mels * 600];
        engine.encode(&[job(0, &loud), job(1, &short)]).unwrap();
        let mut logits = Vec::new();
        let overflowed = engine
            .step(&[row(0, 0, &[1]), row(1, 0, &[1])], &mut logits)
            .unwrap();
        assert_eq!(overflowed, [0]);
        assert!(matches!(
            engine.step(&[row(0, 0, &[1])], &mut logits),
            Err(Error::Slot { slot: 0, .. })
        ));
        engine.encode(&[job(1, &short)]).unwrap();
        let beside = greedy(&mut engine, 1, 20);
        assert_eq!(beside, fresh, "the neighbour");
        engine.encode(&[job(0, &short)]).unwrap();
        assert_eq!(greedy(&mut engine, 0, 20), fresh, "the next one in the slot");
        assert!(engine.attend(0, &[1, 2, 3], &[(2, 0)]).is_ok());
    }
}

#[test]
fn odd_input_is_refused_by_name_and_changes_nothing() {
    let mut engine = engine(options(false));
    let sound = mel(40, 1);
    let mut logits = Vec::new();
    assert!(matches!(
        engine.step(&[row(0, 0, &[1])], &mut logits),
        Err(Error::Slot { slot: 0, .. })
    ));
    assert!(matches!(
        engine.encode(&[job(6, &sound)]),
        Err(Error::Missing { what: "slot", .. })
    ));
    assert!(matches!(
        engine.encode(&[job(1, &sound), job(1, &sound)]),
        Err(Error::Slot { .. })
    ));
    assert!(matches!(
        engine.encode(&[job(1, &mel(301, 1))]),
        Err(Error::Positions { positions: 301, .. })
    ));
    assert!(matches!(
        engine.encode(&[job(1, &[])]),
        Err(Error::Positions { .. })
    ));
    assert!(matches!(
        engine.encode(&[job(1, &sound[1..])]),
        Err(Error::Mel { .. })
    ));
    engine.encode(&[job(0, &sound)]).unwrap();
    let before = greedy(&mut engine, 0, 5);
    engine.encode(&[job(0, &sound)]).unwrap();
    assert!(matches!(
        engine.step(&[row(0, 0, &[])], &mut logits),
        Err(Error::Empty)
    ));
    assert!(matches!(
        engine.step(&[row(0, 0, &[331])], &mut logits),
        Err(Error::Token { token: 331, .. })
    ));
    assert!(matches!(
        engine.step(&[row(0, 0, &[1; 101])], &mut logits),
        Err(Error::TooLong { len: 101, most: 100 })
    ));
    assert!(matches!(
        engine.step(&[row(0, 1, &[1])], &mut logits),
        Err(Error::Missing { .. })
    ));
    assert!(matches!(
        engine.step(&[row(0, 0, &[1]), row(0, 0, &[1])], &mut logits),
        Err(Error::Slot { .. })
    ));
    assert!(engine.rearrange(0, &[0, 1]).is_err());
    assert!(engine.rearrange(0, &[0; 5]).is_err());
    assert!(engine.rearrange(0, &[]).is_err());
    assert!(engine.attend(0, &[1], &[(3, 0)]).is_err());
    assert!(engine.attend(0, &[1], &[(0, 2)]).is_err());
    assert!(engine.attend(1, &[1], &[(0, 0)]).is_err());
    assert_eq!(greedy(&mut engine, 0, 5), before);
}

#[test]
fn blocks_run_out_and_come_back() {
    let mut engine = engine(options(false));
    let sound = mel(40, 1);
    for slot in 0..3 {
        engine.encode(&[job(slot, &sound)]).unwrap();
    }
    assert_eq!(engine.free_blocks(), 2);
    engine.rearrange(0, &[0, 0]).unwrap();
    engine.rearrange(1, &[0, 0]).unwrap();
    assert!(matches!(engine.rearrange(2, &[0, 0]), Err(Error::NoBlock)));
    engine.rearrange(1, &[1, 0]).unwrap();
    engine.release(0);
    engine.rearrange(2, &[0, 0]).unwrap();
    engine.encode(&[job(1, &sound)]).unwrap();
    assert_eq!(engine.free_blocks(), 1);
}

#[test]
fn a_checkpoint_of_another_shape_is_refused() {
    let other = whisper_native::Shape {
        n_vocab: 332,
        ..SHAPE
    };
    let options = Options {
        slots: 1,
        ..options(false)
    };
    let error = Engine::open(device(), &other, &mut common::Random16::new(SHAPE), options).err();
    let text = error.unwrap().to_string();
    assert!(text.contains("decoder.token_embedding.weight"), "{text}");
}
