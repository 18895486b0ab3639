//! Ways through the tokens: the likeliest at each step, several drawn at random, several of the likeliest side by side.

use super::repetition::repeats_at_end;
use super::rules::{self, Allowed};
use super::vocabulary_bias::beam::{self, BRANCH_PLACES, Standing, Way};
use super::vocabulary_bias::{Move, Rewinding, TokenTrie};
use super::{Row, StepError, Steps, Vocabulary};

/// One chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::engine) struct Choice {
    pub(in crate::engine) id: i32,
    pub(in crate::engine) logprob: f32,
}

/// A decoded window.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::engine) struct Hypothesis {
    /// Text and timestamp tokens, without end of text.
    pub(in crate::engine) tokens: Vec<Choice>,
    /// Sum over `tokens` and end of text, divided by their number.
    pub(in crate::engine) avg_logprob: f32,
    /// False when it ran into the token limit or a loop.
    pub(in crate::engine) complete: bool,
}

/// Where a search ends.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Limits {
    /// The greatest timestamp token allowed: the end of the window.
    pub(in crate::engine) last_timestamp: i32,
    /// Longest text and timestamps together.
    pub(in crate::engine) max_tokens: usize,
}

/// Which way to look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::engine) enum Strategy {
    /// The likeliest token at each step.
    Greedy,
    /// `count` texts drawn at `temperature`, of which the likeliest is kept (openai-whisper `best_of`).
    Sample { temperature: f32, count: usize },
    /// The `width` likeliest beginnings side by side (openai-whisper `BeamSearchDecoder`, patience 1).
    Beam { width: usize },
}

/// Decodes from `logits`, those after the last token of the prompt and after `forced`, which the text begins with; the
/// engine holds one hypothesis, the prompt with `forced`. `trie` holds names and terms to prefer, while nothing is drawn at random.
pub(in crate::engine) async fn search(
    steps: &mut impl Steps,
    vocabulary: &Vocabulary,
    logits: &mut Vec<f32>,
    limits: Limits,
    strategy: Strategy,
    forced: &[i32],
    trie: Option<&TokenTrie>,
) -> Result<Hypothesis, StepError> {
    let text = Growing::from_tokens(forced);
    match strategy {
        Strategy::Sample { temperature, count } => {
            sample(
                steps,
                vocabulary,
                logits,
                limits,
                temperature,
                vec![text; count.max(1)],
            )
            .await
        }
        Strategy::Beam { width } if width > 1 => {
            beam(steps, vocabulary, logits, limits, width, text, trie).await
        }
        Strategy::Greedy | Strategy::Beam { .. } => {
            greedy(steps, vocabulary, logits, limits, text, trie).await
        }
    }
}

/// One text that grows.
#[derive(Debug, Clone, Default)]
struct Growing {
    tokens: Vec<Choice>,
    sum: f32,
    /// Tokens at its beginning that were not chosen.
    forced: usize,
    /// Its place among the names and terms, in a beam.
    standing: Standing,
}

impl Growing {
    fn from_tokens(forced: &[i32]) -> Self {
        Self {
            tokens: forced.iter().map(|&id| Choice { id, logprob: 0.0 }).collect(),
            sum: 0.0,
            forced: forced.len(),
            standing: Standing::default(),
        }
    }

    /// Mean log probability of what was chosen, when `sum` is all of it and one more is the end.
    fn mean(&self, sum: f32) -> f32 {
        sum / (self.tokens.len() - self.forced + 1) as f32
    }

    fn push(&mut self, choice: Choice) {
        self.tokens.push(choice);
        self.sum += choice.logprob;
    }

    /// A copy that goes on this way.
    fn with(&self, way: Way) -> Self {
        let mut text = self.clone();
        text.push(way.choice);
        text.standing = way.standing;
        text
    }

    /// Leaves the first `keep` tokens.
    fn take_back(&mut self, keep: usize) {
        for choice in self.tokens.drain(keep..) {
            self.sum -= choice.logprob;
        }
    }

    /// The text is cut off where it stands.
    fn stopped(self) -> Hypothesis {
        Hypothesis {
            avg_logprob: self.mean(self.sum),
            tokens: self.tokens,
            complete: false,
        }
    }

    /// With end of text, `end`, after it.
    fn ended(&self, end: Choice) -> Hypothesis {
        Hypothesis {
            tokens: self.tokens.clone(),
            avg_logprob: self.mean(self.sum + end.logprob),
            complete: true,
        }
    }

    fn must_stop(&self, v: &Vocabulary, limits: Limits) -> bool {
        self.tokens.len() >= limits.max_tokens || ends_in_a_loop(&self.tokens, v)
    }
}

async fn greedy(
    steps: &mut impl Steps,
    v: &Vocabulary,
    logits: &mut Vec<f32>,
    limits: Limits,
    mut text: Growing,
    trie: Option<&TokenTrie>,
) -> Result<Hypothesis, StepError> {
    let mut bias = trie.map(Rewinding::new);
    loop {
        rules::apply(logits, &text.tokens, v, limits.last_timestamp);
        let allowed = Allowed::new(logits, v);
        let choice = match &mut bias {
            None => allowed.best(),
            Some(bias) => match bias.next(&allowed, &text.tokens, v) {
                Move::Append(choice) => choice,
                Move::Rewind { keep, then } => {
                    steps.forget(text.tokens.len() - keep);
                    text.take_back(keep);
                    then
                }
            },
        };
        if choice.id == v.end_of_text {
            return Ok(text.ended(choice));
        }
        text.push(choice);
        if text.must_stop(v, limits) {
            return Ok(text.stopped());
        }
        let row = Row {
            hypothesis: 0,
            tokens: &[choice.id],
            every: false,
        };
        steps.step(&[row], logits).await?;
    }
}

async fn sample(
    steps: &mut impl Steps,
    v: &Vocabulary,
    logits: &mut Vec<f32>,
    limits: Limits,
    temperature: f32,
    mut texts: Vec<Growing>,
) -> Result<Hypothesis, StepError> {
    let count = texts.len();
    // The same window draws the same text.
    let mut random = fastrand::Rng::with_seed(0);
    let prompt = logits.clone();
    logits.clear();
    for _ in 0..count {
        logits.extend_from_slice(&prompt);
    }
    steps.rearrange(&vec![0; count]);
    // Number in the engine, which stays the same, and number among the logits' rows.
    let mut running: Vec<usize> = (0..count).collect();
    let mut done = Vec::with_capacity(count);
    loop {
        let mut next = Vec::with_capacity(running.len());
        for (row, &number) in running.iter().enumerate() {
            let logits = &mut logits[row * v.size..(row + 1) * v.size];
            let text = &mut texts[number];
            rules::apply(logits, &text.tokens, v, limits.last_timestamp);
            let choice = Allowed::new(logits, v).draw(temperature, random.f32());
            if choice.id == v.end_of_text {
                done.push(text.ended(choice));
                continue;
            }
            text.push(choice);
            if text.must_stop(v, limits) {
                done.push(std::mem::take(text).stopped());
            } else {
                next.push((number, [choice.id]));
            }
        }
        if next.is_empty() {
            let scored = done.into_iter().map(|text| (text.avg_logprob, text));
            return Ok(likeliest(scored.collect()));
        }
        running = next.iter().map(|(number, _)| *number).collect();
        let rows: Vec<Row<'_>> = next
            .iter()
            .map(|(number, tokens)| Row {
                hypothesis: *number,
                tokens,
                every: false,
            })
            .collect();
        steps.step(&rows, logits).await?;
    }
}

async fn beam(
    steps: &mut impl Steps,
    v: &Vocabulary,
    logits: &mut Vec<f32>,
    limits: Limits,
    width: usize,
    text: Growing,
    trie: Option<&TokenTrie>,
) -> Result<Hypothesis, StepError> {
    let mut beams = vec![text];
    // With what counts when they are compared.
    let mut done: Vec<(f32, Hypothesis)> = Vec::new();
    loop {
        // (score, beam, way), likeliest text first; of equals the earlier beam.
        let mut ways: Vec<(f32, usize, Way)> = Vec::with_capacity(beams.len() * (width + 1));
        for (number, beam) in beams.iter().enumerate() {
            let logits = &mut logits[number * v.size..(number + 1) * v.size];
            rules::apply(logits, &beam.tokens, v, limits.last_timestamp);
            let allowed = Allowed::new(logits, v);
            let likeliest = allowed.top(width + 1);
            let score = |way: &Way| beam.sum + way.choice.logprob + way.standing.earned;
            let found = match trie {
                None => likeliest.into_iter().map(Way::from).collect(),
                Some(trie) => beam::ways(trie, beam.standing, &allowed, &beam.tokens, likeliest, v),
            };
            ways.extend(found.into_iter().map(|way| (score(&way), number, way)));
        }
        ways.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut next = Vec::with_capacity(width + BRANCH_PLACES);
        let mut parents = Vec::with_capacity(width + BRANCH_PLACES);
        let mut add = |next: &mut Vec<Growing>, number: usize, way: Way| {
            next.push(beams[number].with(way));
            parents.push(number);
        };
        let mut ways = ways.into_iter();
        for (_, number, way) in ways.by_ref() {
            if way.choice.id == v.end_of_text {
                if done.len() < width {
                    let ended = beams[number].ended(way.choice);
                    let earned = beams[number].mean(way.standing.earned);
                    done.push((ended.avg_logprob + earned, ended));
                }
                continue;
            }
            add(&mut next, number, way);
            if next.len() == width {
                break;
            }
        }
        let stuck = next.is_empty() || next[0].must_stop(v, limits);
        if done.len() >= width || stuck {
            // A text that was cut off counts only where no other one came to its end.
            if done.is_empty() {
                done.extend(next.into_iter().map(|text| (text.mean(text.sum), text.stopped())));
            }
            return Ok(likeliest(done));
        }
        if let Some(trie) = trie {
            for (number, way) in beam::beside(trie, ways) {
                add(&mut next, number, way);
            }
        }
        beams = next;
        steps.rearrange(&parents);
        let last: Vec<[i32; 1]> = beams
            .iter()
            .map(|beam| [beam.tokens.last().map_or(v.end_of_text, |choice| choice.id)])
            .collect();
        let rows: Vec<Row<'_>> = last
            .iter()
            .enumerate()
            .map(|(hypothesis, tokens)| Row {
                hypothesis,
                tokens,
                every: false,
            })
            .collect();
        steps.step(&rows, logits).await?;
    }
}

/// The text with the greatest score, which is its mean log probability (openai-whisper `MaximumLikelihoodRanker` without a
/// length penalty) with what it earned; one that came to its end beats one that was cut off.
fn likeliest(texts: Vec<(f32, Hypothesis)>) -> Hypothesis {
    let best = texts.into_iter().reduce(|best, other| {
        let better = (other.1.complete, other.0) > (best.1.complete, best.0);
        if better { other } else { best }
    });
    best.map(|(_, text)| text).unwrap_or_default()
}

/// True when the text ends in the same phrase so often that no speaker would say it.
fn ends_in_a_loop(tokens: &[Choice], v: &Vocabulary) -> bool {
    if tokens.len() < 12 || tokens.last().is_some_and(|t| v.is_timestamp(t.id)) {
        return false;
    }
    let text: Vec<i32> = tokens
        .iter()
        .map(|t| t.id)
        .filter(|&id| !v.is_timestamp(id))
        .collect();
    repeats_at_end(&text)
}

#[cfg(test)]
mod tests {
    use super::super::now;
    use super::*;

    /// A decoder of the toy vocabulary: what follows depends on the tokens so far alone.
    struct Toy<F> {
        texts: Vec<Vec<i32>>,
        wants: F,
        widest: usize,
    }

    impl<F: Fn(&[i32]) -> Vec<(i32, f32)>> Toy<F> {
        fn logits(&self, text: &[i32]) -> Vec<f32> {
            let mut logits = vec![-20.0; 121];
            for (id, logit) in (self.wants)(text) {
                logits[id as usize] = logit;
            }
            logits
        }
    }

    impl<F: Fn(&[i32]) -> Vec<(i32, f32)>> Steps for Toy<F> {
        async fn step(&mut self, rows: &[Row<'_>], logits: &mut Vec<f32>) -> Result<(), StepError> {
            logits.clear();
            assert!(rows.is_sorted_by_key(|row| row.hypothesis));
            self.widest = self.widest.max(rows.len());
            for row in rows {
                self.texts[row.hypothesis].extend_from_slice(row.tokens);
                logits.extend(self.logits(&self.texts[row.hypothesis]));
            }
            Ok(())
        }

        fn rearrange(&mut self, parents: &[usize]) {
            self.texts = parents.iter().map(|parent| self.texts[*parent].clone()).collect();
        }

        fn forget(&mut self, tokens: usize) {
            let left = self.texts[0].len() - tokens;
            self.texts[0].truncate(left);
        }
    }

    fn run(strategy: Strategy, wants: impl Fn(&[i32]) -> Vec<(i32, f32)>) -> (Hypothesis, usize) {
        run_from(&[], 220, strategy, wants)
    }

    fn run_from(
        forced: &[i32],
        max_tokens: usize,
        strategy: Strategy,
        wants: impl Fn(&[i32]) -> Vec<(i32, f32)>,
    ) -> (Hypothesis, usize) {
        let mut toy = Toy {
            texts: vec![forced.to_vec()],
            wants,
            widest: 0,
        };
        let mut logits = toy.logits(forced);
        let limits = Limits {
            last_timestamp: 120,
            max_tokens,
        };
        let v = Vocabulary::toy();
        let found = now(search(&mut toy, &v, &mut logits, limits, strategy, forced, None)).unwrap();
        (found, toy.widest)
    }

    #[test]
    fn what_is_forced_stays_and_only_the_rest_is_scored() {
        for strategy in ALL {
            let (h, _) = run_from(&[20, 1, 1], 220, strategy, script(&[20, 1, 1, 2, 60]));
            assert_eq!(ids(&h), [20, 1, 1, 2, 60], "{strategy:?}");
            assert!(h.complete && h.avg_logprob > -0.01, "{strategy:?}: {h:?}");
        }
    }

    #[test]
    fn a_forced_text_as_long_as_the_limit_ends_at_once() {
        let forced = [20, 1, 2, 1, 1, 2, 2, 1];
        let (h, _) = run_from(&forced, 8, Strategy::Greedy, script(&[2; 40]));
        assert!(!h.complete);
        assert_eq!(h.tokens.len(), 9);
    }

    fn ids(hypothesis: &Hypothesis) -> Vec<i32> {
        hypothesis.tokens.iter().map(|t| t.id).collect()
    }

    /// Wants the script's tokens one after the other, then the end.
    fn script(script: &[i32]) -> impl Fn(&[i32]) -> Vec<(i32, f32)> {
        let script = script.to_vec();
        move |text| vec![(script.get(text.len()).copied().unwrap_or(10), 20.0)]
    }

    const ALL: [Strategy; 3] = [
        Strategy::Greedy,
        Strategy::Sample {
            temperature: 0.2,
            count: 5,
        },
        Strategy::Beam { width: 5 },
    ];

    #[test]
    fn text_between_timestamps_comes_back_with_its_end() {
        for strategy in ALL {
            let (h, _) = run(strategy, script(&[20, 1, 2, 60]));
            assert_eq!(ids(&h), [20, 1, 2, 60], "{strategy:?}");
            assert!(h.complete && h.avg_logprob > -0.01, "{strategy:?}: {h:?}");
        }
    }

    #[test]
    fn symbols_for_music_and_brackets_are_never_written() {
        for strategy in ALL {
            let (h, _) = run(strategy, script(&[20, 3, 4, 60]));
            assert!(h.tokens.iter().all(|t| t.id != 3 && t.id != 4), "{h:?}");
        }
    }

    #[test]
    fn time_never_goes_back() {
        for strategy in ALL {
            let (h, _) = run(strategy, script(&[20, 1, 60, 60, 2, 40]));
            let times: Vec<i32> = ids(&h).into_iter().filter(|id| *id >= 20).collect();
            assert!(times.is_sorted(), "{times:?}");
        }
    }

    #[test]
    fn a_loop_is_cut_short_and_called_incomplete() {
        let mut looping = vec![20];
        looping.extend(std::iter::repeat_n(1, 300));
        for strategy in ALL {
            let (h, _) = run(strategy, script(&looping));
            assert!(!h.complete, "{strategy:?}");
            assert!(h.tokens.len() < 20, "{strategy:?}: {}", h.tokens.len());
        }
    }

    /// "a" is likelier than "b", but what follows it is a toss-up; after "b" all is clear.
    fn garden_path(text: &[i32]) -> Vec<(i32, f32)> {
        match text {
            [] => vec![(20, 20.0)],
            [_] => vec![(1, 1.2), (2, 1.0)],
            [_, 1] => vec![(5, 1.0), (6, 1.0), (7, 1.0), (8, 1.0)],
            [_, 2] => vec![(9, 20.0)],
            [_, _, _] => vec![(60, 20.0)],
            _ => vec![(10, 20.0)],
        }
    }

    #[test]
    fn a_beam_finds_the_text_that_greed_walks_past() {
        let (greedy, _) = run(Strategy::Greedy, garden_path);
        assert_eq!(ids(&greedy)[1], 1);
        let (beam, widest) = run(Strategy::Beam { width: 3 }, garden_path);
        assert_eq!(ids(&beam), [20, 2, 9, 60]);
        assert!(beam.avg_logprob > greedy.avg_logprob);
        assert_eq!(widest, 3);
    }

    #[test]
    fn the_likeliest_of_several_draws_is_kept_and_it_is_the_same_each_time() {
        let strategy = Strategy::Sample {
            temperature: 1.0,
            count: 5,
        };
        let (first, widest) = run(strategy, garden_path);
        assert_eq!(widest, 5);
        assert_eq!(ids(&first), [20, 2, 9, 60]);
        assert_eq!(run(strategy, garden_path).0, first);
    }
}
