//! Every dependency has a licence that `deny.toml` allows, and what ships is named with its terms.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Ships beside the binary and in it (`WhisperBackendAPI --licences`).
const NOTICES: &str = "THIRD-PARTY-NOTICES.txt";

/// Licence files that lie deeper than a package's own folder: of C code that it carries.
const INNER: [(&str, &str); 2] = [
    ("whisper-rs-sys", "whisper.cpp/LICENSE"),
    ("opusic-sys", "opus/COPYING"),
];

struct Package {
    name: String,
    version: String,
    licence: String,
    repository: String,
    authors: Vec<String>,
    folder: PathBuf,
    source: Option<String>,
    id: String,
}

fn metadata(manifest: &Path, more: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .args(more)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(metadata: &Value) -> Vec<Package> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: text(&package["license"]),
            repository: text(&package["repository"]),
            authors: package["authors"].as_array().unwrap().iter().map(text).collect(),
            folder: Path::new(package["manifest_path"].as_str().unwrap())
                .parent()
                .unwrap()
                .to_owned(),
            source: package["source"].as_str().map(str::to_owned),
            id: text(&package["id"]),
        })
        .collect()
}

fn rules() -> toml::Table {
    toml::from_str(&fs::read_to_string(Path::new(ROOT).join("deny.toml")).unwrap()).unwrap()
}

fn list(value: &toml::Value) -> BTreeSet<String> {
    let items = value.as_array().unwrap();
    let text = |item: &toml::Value| {
        item.as_str()
            .or_else(|| item.get("crate")?.as_str())
            .unwrap()
            .to_owned()
    };
    items.iter().map(text).collect()
}

/// Whether the expression can be met with these licences alone.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    spdx::Expression::parse_mode(expression, spdx::ParseMode::LAX)
        .is_ok_and(|expression| expression.evaluate(|needed| allowed.contains(&needed.to_string())))
}

#[test]
fn every_dependency_is_what_deny_toml_allows() {
    let rules = rules();
    let allowed = list(&rules["licenses"]["allow"]);
    let banned = list(&rules["bans"]["deny"]);
    let all = packages(&metadata(
        &Path::new(ROOT).join("Cargo.toml"),
        &["--locked", "--all-features"],
    ));
    assert!(all.len() > 100, "{} packages", all.len());
    // Cargo's own registry, and no other: the one that `serde` comes from.
    let serde = all.iter().find(|package| package.name == "serde").unwrap();
    let registry = serde.source.clone().unwrap();
    assert!(registry.starts_with("registry+"), "{registry}");
    let mut wrong = Vec::new();
    for package in &all {
        let Package { name, licence, .. } = package;
        if !is_allowed(licence, &allowed) {
            wrong.push(format!(
                "`{name}`: licence `{licence}` is not allowed by deny.toml"
            ));
        }
        if banned.contains(name) {
            wrong.push(format!("`{name}` is banned by deny.toml"));
        }
        match package.source.as_deref() {
            None => assert!(
                package.folder.starts_with(ROOT),
                "`{name}` lies outside the repository"
            ),
            Some(source) => {
                if source != registry {
                    wrong.push(format!("`{name}` comes from `{source}`"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_licence_that_is_not_on_the_list_is_found() {
    let allowed = list(&rules()["licenses"]["allow"]);
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "Apache-2.0 AND ISC",
    ] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-2.0-only",
        "LicenseRef-Fraunhofer",
        "nonsense words",
    ] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}

/// What is linked into the binary on Linux with every feature: the root's normal dependencies, all the way down.
fn shipped() -> Vec<Package> {
    let metadata = metadata(
        &Path::new(ROOT).join("Cargo.toml"),
        &[
            "--locked",
            "--all-features",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ],
    );
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let root = metadata["resolve"]["root"].as_str().unwrap().to_owned();
    let mut reached = BTreeSet::from([root.clone()]);
    let mut open = vec![root.clone()];
    while let Some(id) = open.pop() {
        let node = nodes.iter().find(|node| node["id"] == id.as_str()).unwrap();
        for dependency in node["deps"].as_array().unwrap() {
            let normal = dependency["dep_kinds"]
                .as_array()
                .unwrap()
                .iter()
                .any(|kind| kind["kind"].is_null());
            let package = dependency["pkg"].as_str().unwrap();
            if normal && reached.insert(package.to_owned()) {
                open.push(package.to_owned());
            }
        }
    }
    let mut out: Vec<Package> = packages(&metadata)
        .into_iter()
        .filter(|package| reached.contains(&package.id) && package.id != root)
        .filter(|package| package.source.is_some() || package.name == "whisper-rs-sys")
        .collect();
    // Its texts lie in the published crate.
    let pin = Path::new(ROOT).join("patches/upstream");
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("upstream");
    fs::create_dir_all(work.join("src")).unwrap();
    for file in ["Cargo.toml", "src/lib.rs"] {
        fs::copy(pin.join(file), work.join(file)).unwrap();
    }
    let upstream = packages(&self::metadata(&work.join("Cargo.toml"), &[]));
    for package in out.iter_mut().filter(|package| package.name == "whisper-rs-sys") {
        let published = upstream
            .iter()
            .find(|published| published.name == package.name)
            .unwrap();
        package.folder.clone_from(&published.folder);
        package.repository.clone_from(&published.repository);
    }
    out.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    out
}

/// The licence texts of a package: one of those that may be chosen, all where it does not say which is which.
fn texts(package: &Package) -> Vec<String> {
    let mut files: Vec<String> = fs::read_dir(&package.folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            let name = name.to_lowercase();
            ["licen", "copying", "notice", "unlicense", "copyright"]
                .iter()
                .any(|start| name.starts_with(start))
                && package
                    .folder
                    .join(&name)
                    .extension()
                    .is_none_or(|extension| extension != "rs")
                && package
                    .folder
                    .join(&name)
                    .metadata()
                    .map_or(true, |entry| entry.is_file())
        })
        .collect();
    files.sort();
    let choice = package.licence.contains(" OR ") || package.licence.contains('/');
    let mit: Vec<String> = files
        .iter()
        .filter(|name| name.to_lowercase().contains("mit"))
        .cloned()
        .collect();
    if choice && !package.licence.contains(" AND ") && !mit.is_empty() {
        files = mit;
    }
    files.extend(
        INNER
            .iter()
            .filter(|(name, _)| *name == package.name)
            .map(|(_, file)| (*file).to_owned()),
    );
    let mut out: Vec<String> = files
        .iter()
        .map(|name| String::from_utf8_lossy(&fs::read(package.folder.join(name)).unwrap()).into_owned())
        .collect();
    if out.is_empty() {
        // A crate that was published without its text.
        assert!(
            package.licence.contains("MIT"),
            "`{}` has no licence text",
            package.name
        );
        let ours = fs::read_to_string(Path::new(ROOT).join("LICENSE")).unwrap();
        let authors = if package.authors.is_empty() {
            format!("the authors of {}", package.name)
        } else {
            package.authors.join(", ")
        };
        let body: Vec<&str> = ours
            .lines()
            .filter(|line| !line.starts_with("Copyright"))
            .collect();
        out.push(format!("Copyright (c) {authors}\n{}", body.join("\n")));
    }
    out
}

fn is_copyright(line: &str) -> bool {
    let line = line.trim().to_lowercase();
    line.starts_with("copyright")
        && (line.contains("(c)") || line.contains('©') || line.bytes().any(|b| b.is_ascii_digit()))
}

/// Words only, so that line breaks and quotes do not make two texts of one.
fn key(text: &str) -> String {
    text.lines()
        .filter(|line| !is_copyright(line))
        .flat_map(|line| line.split(|c: char| !c.is_alphanumeric()))
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
        .to_lowercase()
}

/// One group for each text that differs in more than its copyright lines.
#[derive(Default)]
struct Group {
    text: String,
    holders: BTreeMap<String, BTreeSet<String>>,
}

/// A script of the page that others wrote. Its first line names it: `/* name version, licence, … */`.
struct Script {
    name: String,
    version: String,
    licence: String,
    text: String,
}

fn scripts() -> Vec<Script> {
    let folder = Path::new(ROOT).join("page/vendor");
    let mut out: BTreeMap<String, Script> = BTreeMap::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "js") {
            continue;
        }
        let code = fs::read_to_string(&path).unwrap();
        let first = code.lines().next().unwrap().trim_start_matches("/* ");
        let mut parts = first.split(", ");
        let (name, version) = parts.next().unwrap().split_once(' ').unwrap();
        let script = Script {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: parts.next().unwrap().to_owned(),
            text: fs::read_to_string(folder.join(format!("{name}.LICENSE"))).unwrap(),
        };
        out.insert(script.name.clone(), script);
    }
    out.into_values().collect()
}

#[test]
fn scripts_of_the_page_are_what_deny_toml_allows() {
    let allowed = list(&rules()["licenses"]["allow"]);
    let scripts = scripts();
    assert_eq!(scripts.len(), 2);
    for script in scripts {
        assert!(
            is_allowed(&script.licence, &allowed),
            "`{}`: {}",
            script.name,
            script.licence
        );
    }
}

fn notices() -> String {
    let shipped = shipped();
    let mut out = String::from(
        "WhisperBackendAPI contains the work of others. What each part is, and the terms it comes under.\n\
         Generated from the lock file by tests/licences.rs; `UPDATE_NOTICES=1 cargo test --test licences` writes it anew.\n\n\
         whisper.cpp and ggml (in whisper-rs-sys) are MIT, with the changes in patches/. The Opus decoder (in opusic-sys) is BSD.\n\
         Symphonia is under the Mozilla Public License 2.0; its sources are unchanged, at the address beside its name.\n\
         Models are not part of this program: see models/README.md.\n\n\
         PARTS\n\n",
    );
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for package in &shipped {
        let Package {
            name,
            version,
            licence,
            repository,
            ..
        } = package;
        writeln!(out, "{name} {version}: {licence} {repository}").unwrap();
        for text in texts(package) {
            add(&mut groups, name, &text);
        }
    }
    for script in scripts() {
        let Script {
            name,
            version,
            licence,
            text,
        } = script;
        writeln!(out, "{name} {version}: {licence} (a script of the page)").unwrap();
        add(&mut groups, &name, &text);
    }
    out.push_str("\nTERMS\n");
    for group in groups.values() {
        writeln!(out, "\n{}", "-".repeat(100)).unwrap();
        for (name, holders) in &group.holders {
            let holders: Vec<&str> = holders.iter().map(String::as_str).collect();
            writeln!(out, "{name}: {}", holders.join("; ")).unwrap();
        }
        writeln!(out, "\n{}", group.text).unwrap();
    }
    out
}

/// The copyright lines of a text stand by the name of its part, and the rest with the same text of others.
fn add(groups: &mut BTreeMap<String, Group>, name: &str, text: &str) {
    let group = groups.entry(key(text)).or_default();
    if group.text.is_empty() {
        let body: Vec<&str> = text
            .lines()
            .filter(|line| !is_copyright(line))
            .map(str::trim_end)
            .collect();
        body.join("\n").trim_matches('\n').clone_into(&mut group.text);
    }
    let holders = group.holders.entry(name.to_owned()).or_default();
    holders.extend(
        text.lines()
            .filter(|line| is_copyright(line))
            .map(|line| line.trim().to_owned()),
    );
}

#[test]
fn the_notices_name_everything_that_ships() {
    let path = Path::new(ROOT).join(NOTICES);
    let wanted = notices();
    if std::env::var_os("UPDATE_NOTICES").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let present = fs::read_to_string(&path).unwrap_or_default();
    for (number, (there, here)) in present.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(
            there,
            here,
            "{NOTICES}:{}; UPDATE_NOTICES=1 cargo test --test licences",
            number + 1
        );
    }
    assert!(
        present == wanted,
        "{NOTICES} is out of date; UPDATE_NOTICES=1 cargo test --test licences"
    );
}

#[test]
fn the_binary_prints_the_notices() {
    for flag in ["--licences", "--licenses"] {
        let output = Command::new(env!("CARGO_BIN_EXE_WhisperBackendAPI"))
            .arg(flag)
            .output()
            .unwrap();
        assert!(output.status.success());
        let said = String::from_utf8(output.stdout).unwrap();
        for name in [
            "The ggml authors",
            "Mozilla Public License",
            "Opus",
            "symphonia",
            "MIT",
        ] {
            assert!(said.contains(name), "{flag} does not name {name}");
        }
    }
}
