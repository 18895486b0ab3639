use proptest::prelude::*;
use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::transcript::Word;

/// A segment whose words are said one after the other, each as long as its letters need.
fn spoken(seek: u32, start: f32, language: &str, text: &str, seconds_per_letter: f32) -> Segment {
    let unspaced = matches!(language, "ja" | "zh");
    let pieces: Vec<String> = if unspaced {
        text.chars().map(String::from).collect()
    } else {
        text.split_whitespace().map(str::to_owned).collect()
    };
    let mut clock = start;
    let mut words = Vec::new();
    for piece in pieces {
        let bare = piece.trim_matches(|c: char| !c.is_alphanumeric());
        let seconds = seconds_per_letter * piece.chars().count() as f32;
        if !bare.is_empty() {
            words.push(Word {
                text: bare.to_owned(),
                start: clock,
                end: clock + seconds,
            });
        }
        clock += seconds;
    }
    Segment {
        id: 0,
        seek,
        start,
        end: clock,
        text: if unspaced {
            text.to_owned()
        } else {
            format!(" {text}")
        },
        tokens: Vec::new(),
        temperature: 0.0,
        avg_logprob: -0.1,
        compression_ratio: 1.0,
        no_speech_prob: 0.0,
        words,
        logprobs: Vec::new(),
        channel: None,
        language: Some(language.to_owned()),
    }
}

fn netflix() -> SubtitleRules {
    SubtitleRules {
        style: SubtitleStyle::Netflix,
        ..SubtitleRules::default()
    }
}

fn built(rules: SubtitleRules, segments: &[Segment]) -> Vec<Cue> {
    let mut builder = CueBuilder::new(rules, Task::Transcribe, None);
    let mut cues = builder.push(segments);
    cues.extend(builder.finish());
    cues
}

fn srt(cues: &[Cue]) -> String {
    let mut out = String::new();
    for (index, cue) in cues.iter().enumerate() {
        super::super::srt_laid_out(&mut out, index + 1, cue);
    }
    out
}

const ENGLISH: [&str; 5] = [
    "The first thing that you notice when you walk into the old harbour is the smell of salt and of tar, and then the \
     sound of the ropes.",
    "Nobody comes here in winter.",
    "But in the spring, when the ice has gone, the fishermen paint their boats and their wives bring coffee down to \
     the quay in blue enamel pots, as they have done for two hundred years.",
    "Why?",
    "Because it is what their grandmothers did, I suppose.",
];

const GERMAN: [&str; 3] = [
    "Die Geschwindigkeitsbegrenzung auf der Autobahn ist seit Jahrzehnten ein Thema, über das in diesem Land \
     leidenschaftlich gestritten wird.",
    "Wer dagegen ist, spricht von Freiheit; wer dafür ist, von Sicherheit und von der Umwelt.",
    "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz!",
];

const JAPANESE: [&str; 4] = [
    "吾輩は猫である。",
    "名前はまだ無い。",
    "どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。",
    "吾輩はここで始めて人間というものを見た。",
];

fn talk(language: &str, texts: &[&str], seconds_per_letter: f32) -> Vec<Segment> {
    let mut clock = 0.4;
    texts
        .iter()
        .map(|text| {
            let segment = spoken(0, clock, language, text, seconds_per_letter);
            clock = segment.end + 0.3;
            segment
        })
        .collect()
}

#[test]
fn golden_files_in_three_languages() {
    insta::assert_snapshot!("english", srt(&built(netflix(), &talk("en", &ENGLISH, 0.062))));
    insta::assert_snapshot!("german", srt(&built(netflix(), &talk("de", &GERMAN, 0.062))));
    insta::assert_snapshot!("japanese", srt(&built(netflix(), &talk("ja", &JAPANESE, 0.24))));
    let bbc = SubtitleRules {
        style: SubtitleStyle::Bbc,
        ..SubtitleRules::default()
    };
    insta::assert_snapshot!("english_bbc", srt(&built(bbc, &talk("en", &ENGLISH, 0.062))));
}

#[test]
fn japanese_lines_never_begin_with_what_must_not() {
    let cues = built(netflix(), &talk("ja", &JAPANESE, 0.2));
    for line in cues.iter().flat_map(|cue| &cue.lines) {
        let first = line.chars().next().unwrap();
        assert!(
            !"。、」』）！？ーゃゅょっァィゥェォッャュョ".contains(first),
            "{line}"
        );
        assert!(!"「『（".contains(line.chars().next_back().unwrap()), "{line}");
        assert!(line.width() <= 26, "{line}");
    }
}

#[test]
fn limits_of_openais_command_line_alone_leave_segments_whole() {
    let rules = SubtitleRules {
        max_line_width: Some(20),
        ..SubtitleRules::default()
    };
    let segments = talk("en", &ENGLISH[..2], 0.06);
    let cues = built(rules, &segments);
    assert_eq!(cues.len(), 2);
    assert!(cues[0].lines.len() > 4, "{:?}", cues[0]);
    assert!(cues[0].lines.iter().all(|line| line.len() <= 20), "{:?}", cues[0]);
    let words = SubtitleRules {
        max_words_per_line: Some(4),
        max_line_count: Some(1),
        ..SubtitleRules::default()
    };
    let cues = built(words, &segments);
    assert!(
        cues.iter()
            .all(|cue| cue.lines.len() == 1 && cue.lines[0].split(' ').count() <= 4),
        "{cues:?}"
    );
}

#[test]
fn a_translation_has_the_limits_of_english() {
    let mut builder = CueBuilder::new(netflix(), Task::Translate, None);
    let mut cues = builder.push(&[spoken(
        0,
        0.0,
        "ja",
        "I am a cat, and I have no name as yet.",
        0.06,
    )]);
    cues.extend(builder.finish());
    assert!(
        cues.iter().flat_map(|cue| &cue.lines).any(|line| line.len() > 26),
        "{cues:?}"
    );
}

#[test]
fn a_long_segment_keeps_its_words_a_line() {
    let rules = SubtitleRules {
        max_words_per_line: Some(1),
        ..SubtitleRules::default()
    };
    let text: Vec<String> = (0..60).map(|n| format!("word{n}")).collect();
    let cues = built(rules, &[spoken(0, 0.0, "en", &text.join(" "), 0.05)]);
    assert_eq!((cues.len(), cues[0].lines.len()), (1, 60));
}

#[test]
fn no_line_begins_or_ends_with_a_space() {
    // No line may begin with the long vowel mark, so the text is one piece, wider than a line.
    let rules = SubtitleRules {
        max_line_width: Some(8),
        ..SubtitleRules::default()
    };
    let cues = built(rules, &[spoken(0, 0.0, "en", "ァーャ、 ー", 0.1)]);
    assert_eq!(cues[0].lines, ["ァーャ、", "ー"]);
}

#[test]
fn emoji_are_never_cut_in_two() {
    for emoji in EMOJI {
        let text = emoji.repeat(40);
        for width in 8..30 {
            let rules = SubtitleRules {
                max_line_width: Some(width),
                ..netflix()
            };
            let cues = built(rules, &[spoken(0, 0.0, "en", &text, 0.02)]);
            for line in cues.iter().flat_map(|cue| &cue.lines) {
                let left = line.replace(emoji, "");
                assert!(left.is_empty(), "{line:?} at {width} ends with {left:?}");
            }
        }
    }
}

#[test]
fn people_who_speak_too_fast_get_marked_cues() {
    let cues = built(netflix(), &talk("en", &ENGLISH, 0.03));
    assert!(
        cues.iter()
            .any(|cue| matches!(cue.exceeds, Some(Exceeds::ReadingSpeed(_))))
    );
    let mut vtt = String::new();
    super::super::vtt_laid_out(&mut vtt, cues.iter().find(|cue| cue.exceeds.is_some()).unwrap());
    assert!(
        vtt.starts_with("NOTE ") && vtt.contains("characters a second\n\n"),
        "{vtt}"
    );
}

fn letters(text: &str) -> String {
    // Arrows lose a dash.
    text.chars()
        .filter(|c| !c.is_whitespace() && !"->".contains(*c))
        .collect()
}

/// Each is seen as one character.
const EMOJI: [&str; 4] = ["👨‍👩‍👧‍👦", "👍🏽", "🇯🇵", "❤️"];

/// Windows of segments of words of one or two scripts, with pauses, fast and slow speech, and times that stand still.
fn recordings() -> impl Strategy<Value = Vec<Segment>> {
    let word = prop_oneof![
        6 => "[a-zäöüß]{1,12}[,.;!?]?",
        1 => "[A-Z][a-z]{20,70}",
        2 => "[ぁ-んァ-ヶ一-龠ー]{1,12}[、。！？]?",
        1 => "[(「\"]?[a-z]{1,5}[)」\"-]?",
        1 => "--> [&<]",
        1 => "[א-ת]{1,12}",
        1 => "[A-Za-z]{500}",
        1 => prop::collection::vec(prop::sample::select(EMOJI.to_vec()), 1..30).prop_map(|all| all.concat()),
    ];
    let segment = (
        prop::collection::vec(word, 1..14),
        0.0..0.2f32,
        0.0..4.0f32,
        prop::sample::select(vec!["en", "de", "ja"]),
        any::<bool>(),
    );
    let window = prop::collection::vec(segment, 1..5);
    prop::collection::vec(window, 1..4).prop_map(|windows| {
        let mut clock = 0.0;
        let mut out = Vec::new();
        for (seek, window) in windows.into_iter().enumerate() {
            for (words, pace, pause, language, timed) in window {
                clock += pause;
                let mut segment = spoken(seek as u32 * 100, clock, language, &words.join(" "), pace);
                if !timed {
                    segment.words.clear();
                }
                clock = segment.end;
                out.push(segment);
            }
        }
        out
    })
}

fn rules() -> impl Strategy<Value = SubtitleRules> {
    (
        prop::sample::select(vec![
            SubtitleStyle::None,
            SubtitleStyle::Netflix,
            SubtitleStyle::Bbc,
        ]),
        prop::option::of(8..60u32),
        prop::option::of(1..4u32),
        prop::option::of(1..8u32),
        prop::option::of(2.0..30.0f32),
    )
        .prop_map(|(style, width, lines, words, cps)| SubtitleRules {
            style,
            max_line_width: width,
            max_line_count: lines,
            max_words_per_line: words,
            max_cps: cps,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_text_is_lost_and_every_limit_is_kept_or_the_cue_is_marked(segments in recordings(), rules in rules()) {
        let cues = built(rules, &segments);
        let said: String = segments.iter().map(|segment| segment.text.as_str()).collect();
        let shown: String = cues.iter().flat_map(|cue| &cue.lines).map(String::as_str).collect();
        prop_assert_eq!(letters(&shown), letters(&said));
        let mut clock = 0.0;
        for cue in &cues {
            prop_assert!(cue.start >= clock && cue.end >= cue.start, "{:?} before {}", cue, clock);
            clock = cue.end;
            prop_assert!(cue.lines.iter().all(|line| !line.trim().is_empty() && line.trim() == line), "{:?}", cue);
            // The window's first language decides; all of a window's limits are that language's.
            let widest = [Some("en"), Some("ja")].into_iter().map(|l| rules.limits(l).width).max().unwrap();
            prop_assert!(cue.lines.iter().all(|line| line.width() <= widest), "{:?} wider than {}", cue, widest);
            let limits = rules.limits(Some("en"));
            if !limits.whole_segments {
                prop_assert!(cue.lines.len() <= limits.lines, "{:?}", cue);
                prop_assert!(cue.end - cue.start <= LONGEST_SECONDS + 0.001, "{:?}", cue);
                let short = cue.end - cue.start < SHORTEST_SECONDS - 0.001;
                prop_assert!(!short || matches!(cue.exceeds, Some(Exceeds::TooShort(_))), "{:?}", cue);
            }
        }
    }

    #[test]
    fn a_stream_of_windows_gives_the_same_cues(segments in recordings(), rules in rules()) {
        let mut builder = CueBuilder::new(rules, Task::Transcribe, None);
        let mut streamed = Vec::new();
        for window in segments.chunk_by(|a, b| a.seek == b.seek) {
            streamed.extend(builder.push(window));
        }
        streamed.extend(builder.finish());
        prop_assert_eq!(streamed, built(rules, &segments));
    }
}
