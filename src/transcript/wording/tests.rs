use super::*;
use crate::transcript::Word;

fn segment(text: &str, words: &[&str]) -> Segment {
    let words = words
        .iter()
        .enumerate()
        .map(|(index, word)| Word {
            text: (*word).to_owned(),
            start: index as f32,
            end: index as f32 + 0.5,
        })
        .collect();
    Segment {
        id: 0,
        seek: 0,
        start: 0.0,
        end: 9.0,
        text: text.to_owned(),
        tokens: Vec::new(),
        temperature: 0.0,
        avg_logprob: -0.1,
        compression_ratio: 1.0,
        no_speech_prob: 0.0,
        words,
        logprobs: Vec::new(),
        channel: None,
        language: None,
    }
}

fn cleaned(text: &str, language: &str) -> String {
    let rules = WordingRules {
        style: TranscribeStyle::Clean,
        ..WordingRules::default()
    };
    let mut segment = segment(text, &[]);
    Wording::new(&rules).apply(&mut segment, Some(language));
    segment.text
}

#[test]
fn hesitations_leave_with_the_commas_that_set_them_off() {
    for (language, before, after) in [
        ("en", " Um, I think so.", " I think so."),
        ("en", " Um, it works.", " It works."),
        ("en", " I, uh, think so.", " I think so."),
        ("en", " I uh think so.", " I think so."),
        ("en", " I think, um.", " I think."),
        ("en", " Um. Yes.", " Yes."),
        ("en", " Well, uh, um, yes.", " Well yes."),
        ("en", " Uh... maybe.", " Maybe."),
        (
            "en",
            " The drum hummed; hmm-hmm errs.",
            " The drum hummed; hmm-hmm errs.",
        ),
        ("de", " Ähm, das ist gut.", " Das ist gut."),
        ("de", " Das ist äh gut um fünf.", " Das ist gut um fünf."),
        ("ja", "えーと、今日は、あのー、晴れです。", "今日は、晴れです。"),
        ("ja", "あの人はまあ、元気です。", "あの人はまあ、元気です。"),
        ("ja", "あの、すみません。", "すみません。"),
        ("zh", "嗯，我知道。", "我知道。"),
        ("xx", " Um, yes.", " Um, yes."),
    ] {
        assert_eq!(cleaned(before, language), after, "{language}: {before}");
    }
}

#[test]
fn nothing_but_hesitation_is_no_segment() {
    let rules = WordingRules {
        style: TranscribeStyle::Clean,
        ..WordingRules::default()
    };
    let mut um = segment(" Um...", &["Um"]);
    assert!(!Wording::new(&rules).apply(&mut um, Some("en")));
    assert!(um.words.is_empty());
}

#[test]
fn words_follow_the_text() {
    let rules = WordingRules {
        style: TranscribeStyle::Clean,
        replacements: vec![
            ("whisper back end".to_owned(), "WhisperBackend API".to_owned()),
            ("really".to_owned(), String::new()),
        ],
        profanity: ProfanityMode::Masked,
        profanity_words: vec!["damn".to_owned()],
    };
    let mut said = segment(
        " Uh, the Whisper back end is really damn good.",
        &[
            "Uh", "the", "Whisper", "back", "end", "is", "really", "damn", "good",
        ],
    );
    assert!(Wording::new(&rules).apply(&mut said, Some("en")));
    assert_eq!(said.text, " The WhisperBackend API is **** good.");
    let words: Vec<(&str, f32, f32)> = said
        .words
        .iter()
        .map(|word| (word.text.as_str(), word.start, word.end))
        .collect();
    assert_eq!(words[1].0, "WhisperBackend");
    assert_eq!((words[1].1, words[2].2), (2.0, 4.5));
    assert_eq!(
        words.iter().map(|w| w.0).collect::<Vec<_>>()[2..],
        ["API", "is", "****", "good"]
    );
    assert!(words.windows(2).all(|pair| pair[0].2 <= pair[1].1), "{words:?}");
}

#[test]
fn every_mode_of_the_list() {
    for (mode, after) in [
        (ProfanityMode::None, " Damn it, darn!"),
        (ProfanityMode::Masked, " **** it, ****!"),
        (ProfanityMode::Removed, " it,!"),
        (
            ProfanityMode::Tags,
            " <profanity>Damn</profanity> it, <profanity>darn</profanity>!",
        ),
    ] {
        let rules = WordingRules {
            profanity: mode,
            profanity_words: vec!["damn".to_owned(), "darn".to_owned()],
            ..WordingRules::default()
        };
        let mut said = segment(" Damn it, darn!", &["Damn", "it", "darn"]);
        Wording::new(&rules).apply(&mut said, Some("en"));
        assert_eq!(said.text, after);
    }
}

#[test]
fn with_no_rule_nothing_changes() {
    let wording = Wording::new(&WordingRules::default());
    assert!(wording.is_empty());
    let mut said = segment(" Um, damn.", &["Um", "damn"]);
    let before = said.clone();
    assert!(wording.apply(&mut said, Some("en")));
    assert_eq!(said, before);
}
