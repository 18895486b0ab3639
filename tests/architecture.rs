//! The arrows between the rooms of `src/` go one way, and some names stay in one room.
//!
//! Files are read as tokens, so that groups in `use`, `super::super`, paths in expressions and paths inside macros all
//! count, and comments and texts do not. `samples` shows that each rule finds what it forbids.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Room → rooms it may use. Every module of `src/lib.rs` stands here.
const ARROWS: [(&str, &[&str]); 26] = [
    // Leaves: they know nobody.
    ("domain", &[]),
    ("languages", &[]),
    ("metrics", &[]),
    ("process", &[]),
    ("speech", &["domain"]),
    ("transcript", &["domain"]),
    ("audio", &["domain", "process"]),
    ("diagnostics", &["domain", "process"]),
    ("models", &["process"]),
    // Inner rooms.
    ("config", &["engine", "languages", "transcript"]),
    ("keys", &["config"]),
    ("locale", &["config"]),
    ("telemetry", &["config"]),
    ("tls", &["config"]),
    ("render", &["languages", "transcript"]),
    (
        "engine",
        &[
            "audio",
            "domain",
            "languages",
            "metrics",
            "models",
            "process",
            "transcript",
        ],
    ),
    (
        "serving",
        &["config", "domain", "engine", "metrics", "models", "transcript"],
    ),
    (
        "schedule",
        &["audio", "domain", "engine", "metrics", "serving", "transcript"],
    ),
    ("admission", &["keys", "metrics", "schedule", "serving"]),
    (
        "jobs",
        &[
            "admission",
            "audio",
            "config",
            "engine",
            "keys",
            "languages",
            "locale",
            "metrics",
            "schedule",
            "serving",
            "speech",
            "transcript",
        ],
    ),
    (
        "realtime",
        &[
            "config",
            "engine",
            "keys",
            "languages",
            "metrics",
            "schedule",
            "serving",
            "speech",
            "transcript",
        ],
    ),
    (
        "status",
        &[
            "admission",
            "config",
            "diagnostics",
            "domain",
            "keys",
            "locale",
            "metrics",
            "schedule",
            "serving",
        ],
    ),
    // What the world sees.
    (
        "http",
        &[
            "admission",
            "audio",
            "config",
            "domain",
            "jobs",
            "keys",
            "languages",
            "locale",
            "metrics",
            "realtime",
            "render",
            "schedule",
            "serving",
            "speech",
            "status",
            "tls",
            "transcript",
        ],
    ),
    (
        "app",
        &[
            "admission",
            "audio",
            "config",
            "engine",
            "http",
            "jobs",
            "keys",
            "locale",
            "metrics",
            "models",
            "process",
            "realtime",
            "schedule",
            "serving",
            "status",
            "telemetry",
            "tls",
        ],
    ),
    (
        "cli",
        &[
            "admission",
            "app",
            "audio",
            "config",
            "diagnostics",
            "engine",
            "http",
            "jobs",
            "keys",
            "languages",
            "locale",
            "models",
            "render",
            "schedule",
            "serving",
            "telemetry",
            "tls",
            "transcript",
        ],
    ),
    ("main", &["cli"]),
];

/// Names that stay in one room: start of the path, where it may stand, and why.
const KEPT: [(&str, &[&str], &str); 7] = [
    (
        "std::process::Command",
        &["process"],
        "children are started in one module",
    ),
    (
        "std::process::Child",
        &["process"],
        "children are started in one module",
    ),
    (
        "std::process::Stdio",
        &["process"],
        "children are started in one module",
    ),
    (
        "std::os::unix::process::CommandExt",
        &["process"],
        "children are started in one module",
    ),
    (
        "tokio::process",
        &["process"],
        "children are started in one module",
    ),
    ("whisper_rs", &["engine/whisper"], "one folder names whisper.cpp"),
    (
        "whisper_rs_sys",
        &["engine/whisper"],
        "one folder names whisper.cpp",
    ),
];

/// A path as it is written, resolved from the crate's root when it is one of ours: `["crate", "audio", "Block"]`.
type Found = Vec<String>;

/// Every path in a file whose first part is `crate`, `super`, `self`, or a crate of [`KEPT`]. `module` is where the file
/// stands: `["http", "form"]`.
fn paths(text: &str, module: &[String]) -> Vec<Found> {
    let mut out = Vec::new();
    walk(TokenStream::from_str(text).unwrap(), module, &mut out);
    out
}

fn walk(stream: TokenStream, module: &[String], out: &mut Vec<Found>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Group(group) => walk(group.stream(), module, out),
            TokenTree::Ident(word) => {
                let word = word.to_string();
                // A module inside the file: `super` means one more.
                if word == "mod"
                    && let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                        (tokens.get(at + 1), tokens.get(at + 2))
                {
                    let inner: Vec<String> = module.iter().cloned().chain([name.to_string()]).collect();
                    walk(body.stream(), &inner, out);
                    at += 3;
                    continue;
                }
                let begins = !preceded_by_path(&tokens, at);
                let known = ["crate", "super", "self", "std", "tokio", "whisper_backend_api"]
                    .contains(&word.as_str())
                    || KEPT.iter().any(|(kept, _, _)| *kept == word);
                if begins && known {
                    at = follow(&tokens, at, &[], module, out);
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// Whether the word at `at` comes after `::`, and is no beginning. A leading `::` of the crate's own path does not count.
fn preceded_by_path(tokens: &[TokenTree], at: usize) -> bool {
    at >= 3 && is_colons(tokens, at - 2) && matches!(tokens[at - 3], TokenTree::Ident(_))
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(tokens.get(at)) && colon(tokens.get(at + 1))
}

/// Reads the path that begins at `at`, and every branch of its group. Returns where the text goes on.
fn follow(
    tokens: &[TokenTree],
    mut at: usize,
    before: &[String],
    module: &[String],
    out: &mut Vec<Found>,
) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(word)) => path.push(word.to_string()),
            Some(TokenTree::Punct(star)) if star.as_char() == '*' => path.push("*".to_owned()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for branch in inner.split(|token| matches!(token, TokenTree::Punct(p) if p.as_char() == ','))
                {
                    if !branch.is_empty() {
                        follow(branch, 0, &path, module, out);
                    }
                }
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        if !is_colons(tokens, at) {
            break;
        }
        at += 2;
        // `::<T>` ends the path; what is inside is read on its own.
        if matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == '<') {
            break;
        }
    }
    if let Some(TokenTree::Ident(word)) = tokens.get(at)
        && word == "as"
        && path.len() == 1
    {
        path.push("as".to_owned());
    }
    out.push(resolved(path, module));
    at
}

/// From the crate's root, where the path is ours.
fn resolved(path: Found, module: &[String]) -> Found {
    let mut here = module.to_vec();
    let mut rest = path.as_slice();
    match rest.first().map(String::as_str) {
        Some("whisper_backend_api") => return [&["crate".to_owned()], &path[1..]].concat(),
        Some("self" | "super") => {}
        _ => return path,
    }
    while let Some(first) = rest.first() {
        match first.as_str() {
            "self" => {}
            "super" => {
                here.pop();
            }
            _ => break,
        }
        rest = &rest[1..];
    }
    [&["crate".to_owned()], here.as_slice(), rest].concat()
}

/// The rooms that a file uses, or what is wrong with one of its paths. `file` is its path in `src/`.
fn judge(file: &str, text: &str, rooms: &BTreeSet<&str>) -> (BTreeSet<String>, Vec<String>) {
    let module: Vec<String> = file
        .trim_end_matches(".rs")
        .split('/')
        .filter(|part| !["mod", "lib", "main"].contains(part))
        .map(str::to_owned)
        .collect();
    let room = room_of(file);
    let (mut uses, mut wrong) = (BTreeSet::new(), Vec::new());
    for path in paths(text, &module) {
        let written = path.join("::");
        if path.len() == 2 && path[1] == "as" {
            wrong.push(format!("{file}: `{written}` hides where its names come from"));
        }
        for (kept, allowed, why) in KEPT {
            // A glob, or the module itself, can hide the name.
            let whole = kept == written || written.starts_with(&format!("{kept}::"));
            let hidden = kept.rsplit_once("::").is_some_and(|(parent, _)| {
                parent.contains("::")
                    && (written == parent
                        || written == format!("{parent}::*")
                        || written == format!("{parent}::self"))
            });
            if (whole || hidden) && !allowed.iter().any(|start| file.starts_with(&format!("{start}/"))) {
                wrong.push(format!("{file}: `{written}`: {why} ({allowed:?})"));
                break;
            }
        }
        if path[0] == "crate"
            && let Some(used) = path.get(1)
            && used != room
        {
            if rooms.contains(used.as_str()) {
                uses.insert(used.clone());
            } else if !["as", "self"].contains(&used.as_str()) {
                wrong.push(format!("{file}: `{written}` names no room"));
            }
        }
    }
    (uses, wrong)
}

/// `http/form.rs` → `http`, `metrics.rs` → `metrics`.
fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// A way from a room back to itself.
fn circle(arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn search(arrows: &BTreeMap<String, BTreeSet<String>>, way: &mut Vec<String>) -> bool {
        let last = way.last().unwrap().clone();
        for next in arrows.get(&last).into_iter().flatten() {
            let seen = way.contains(next);
            way.push(next.clone());
            if seen || search(arrows, way) {
                return true;
            }
            way.pop();
        }
        false
    }
    arrows.keys().find_map(|room| {
        let mut way = vec![room.clone()];
        search(arrows, &mut way).then_some(way)
    })
}

fn sources() -> BTreeMap<String, String> {
    fn collect(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(&root)
                .unwrap()
                .display()
                .to_string()
                .replace('\\', "/");
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn rooms() -> BTreeSet<&'static str> {
    ARROWS.iter().map(|(room, _)| *room).collect()
}

#[test]
fn arrows_go_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let rooms = rooms();
    let mut wrong = Vec::new();
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in sources() {
        let room = room_of(&file).to_owned();
        if room == "lib" {
            continue;
        }
        let Some(may) = allowed.get(room.as_str()) else {
            wrong.push(format!("{file}: the room `{room}` is not in ARROWS"));
            continue;
        };
        let (uses, found) = judge(&file, &text, &rooms);
        wrong.extend(found);
        for used in uses {
            if !may.contains(&used.as_str()) {
                wrong.push(format!("{file}: `{room}` must not use `{used}`"));
            }
            arrows.entry(room.clone()).or_default().insert(used);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(circle(&arrows), None);
}

#[test]
fn every_module_of_the_crate_is_a_guarded_room() {
    let rooms = rooms();
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let tokens: Vec<TokenTree> = TokenStream::from_str(&text).unwrap().into_iter().collect();
    let modules: BTreeSet<String> = tokens
        .windows(2)
        .filter(|pair| matches!(&pair[0], TokenTree::Ident(word) if word == "mod"))
        .map(|pair| pair[1].to_string())
        .chain(["main".to_owned()])
        .collect();
    assert_eq!(modules, rooms.iter().map(|room| (*room).to_owned()).collect());
}

/// Each rule on a sample that breaks it, and on one that does not.
#[test]
fn samples() {
    let rooms = rooms();
    let uses = |file: &str, text: &str| judge(file, text, &rooms).0.into_iter().collect::<Vec<_>>();
    let wrong = |file: &str, text: &str| judge(file, text, &rooms).1.len();

    assert_eq!(uses("audio/mod.rs", "use crate::http::Form;"), ["http"]);
    assert_eq!(
        uses("audio/mod.rs", "use crate::{http::{self, Form}, jobs};"),
        ["http", "jobs"]
    );
    assert_eq!(uses("audio/riff.rs", "use super::super::jobs::Job;"), ["jobs"]);
    assert_eq!(
        uses("audio/mod.rs", "mod tests { use super::super::jobs::Job; }"),
        ["jobs"]
    );
    assert_eq!(
        uses("audio/mod.rs", "fn f() { let x = crate::jobs::start(); }"),
        ["jobs"]
    );
    assert_eq!(
        uses("audio/mod.rs", "fn f() -> Vec<crate::jobs::Job> { todo() }"),
        ["jobs"]
    );
    assert_eq!(
        uses("audio/mod.rs", "fn f() { println!(\"{}\", crate::jobs::NAME); }"),
        ["jobs"]
    );
    assert_eq!(
        uses("main.rs", "fn main() { whisper_backend_api::cli::run() }"),
        ["cli"]
    );
    assert!(
        uses(
            "audio/riff.rs",
            "use super::source::Source; use crate::audio::Block; // crate::jobs"
        )
        .is_empty()
    );
    assert!(uses("audio/riff.rs", "const TEXT: &str = \"crate::jobs::Job\";").is_empty());
    assert_eq!(wrong("audio/mod.rs", "use crate as all;"), 1);
    assert_eq!(wrong("audio/mod.rs", "use crate::no_such_room::Thing;"), 1);

    for bad in [
        "use std::process::Command;",
        "use std::process::{ExitCode, Command};",
        "use std::process;",
        "use std::{fs, process::*};",
        "fn f() { ::std::process::Command::new(\"x\"); }",
        "fn f(child: tokio::process::Child) {}",
        "use tokio::{io, process};",
        "use std::os::unix::process::CommandExt;",
        "use whisper_rs::WhisperContext;",
        "fn f() { unsafe { whisper_rs_sys::whisper_free(x) } }",
    ] {
        assert_eq!(wrong("models/pip.rs", bad), 1, "{bad}");
    }
    assert_eq!(
        wrong(
            "models/pip.rs",
            "fn f() -> std::process::ExitCode { std::process::exit(1) }"
        ),
        0
    );
    assert_eq!(
        wrong(
            "process/mod.rs",
            "use std::process::{Command, Stdio}; use tokio::process::Child;"
        ),
        0
    );
    assert_eq!(
        wrong("engine/whisper/slot.rs", "use whisper_rs::WhisperState;"),
        0
    );

    let arrows = |list: &[(&str, &[&str])]| -> BTreeMap<String, BTreeSet<String>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        list.iter()
            .map(|(room, may)| ((*room).to_owned(), owned(may)))
            .collect()
    };
    assert_eq!(circle(&arrows(&[("a", &["b", "c"]), ("b", &["c"])])), None);
    assert!(circle(&arrows(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"])])).is_some());
}

/// Keys lie in these; a tracked one would be published with the next push.
#[test]
fn private_files_are_ignored_by_git() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".gitignore")).unwrap();
    let ignored: BTreeSet<&str> = text.lines().map(str::trim).collect();
    for private in ["/config.local.toml", ".env"] {
        assert!(ignored.contains(private), "{private} is not in .gitignore");
    }
}
