//! From facts to sentences: why the GPU is not in use, and what to type.
//!
//! A pure function: it reads no file and starts no process, so every rule is a row of the table in the tests. What
//! happened comes before what the machine lacks; the first finding's cause is the `reason` of the report.

mod amd;
mod cuda;
mod nvidia;
mod opencl;
mod packages;
mod surroundings;
mod vulkan;

#[cfg(test)]
mod table;

use serde::{Deserialize, Serialize};

use super::build_info::Backend;
use super::probe::{Library, MachineFacts, Vendor, Wsl};
use crate::domain::{DeviceMove, DeviceReport};
use packages::{Package, Packages};

/// What the engines do at this moment. Filled by whoever supervises them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EngineFacts {
    /// The configuration asks for the GPU and no flag took it back.
    pub requested: bool,
    /// What the engine that serves now really runs on; `None` while none runs.
    pub actual: Option<DeviceReport>,
    /// Error and device lines of the newest start and of engines that died, oldest first.
    pub log: Vec<String>,
    /// Every step from the GPU to the CPU since the start, oldest first.
    pub fallbacks: Vec<DeviceMove>,
}

impl EngineFacts {
    /// True when a GPU serves now.
    pub fn on_gpu(&self) -> bool {
        self.actual.as_ref().is_some_and(|device| device.gpu)
    }

    /// The newest logged line, or reason of a fallback, that contains one of `needles` (compared in lower case).
    fn said(&self, needles: &[&str]) -> Option<&str> {
        self.log
            .iter()
            .chain(self.fallbacks.iter().map(|step| &step.reason))
            .rev()
            .flat_map(|line| complaints(line))
            .find(|line| {
                let lower = line.to_lowercase();
                needles.iter().any(|needle| lower.contains(needle))
            })
    }
}

/// A search for devices that found none holds a complaint of each backend: `ggml found no GPU (one; another)`.
fn complaints(line: &str) -> impl Iterator<Item = &str> {
    let inside = line
        .strip_prefix("ggml found no GPU (")
        .and_then(|rest| rest.strip_suffix(')'));
    let separator = if inside.is_some() { "; " } else { "\n" };
    inside.unwrap_or(line).split(separator)
}

/// A sentence in both languages.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Text {
    /// English.
    pub en: String,
    /// Japanese.
    pub ja: String,
}

impl Text {
    pub(super) fn new(en: impl Into<String>, ja: impl Into<String>) -> Self {
        Self {
            en: en.into(),
            ja: ja.into(),
        }
    }

    /// The sentence in one of them.
    pub fn say(&self, japanese: bool) -> &str {
        if japanese { &self.ja } else { &self.en }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// Stable name of the rule, for tests, scripts and searches.
    pub id: &'static str,
    /// What is the matter.
    pub cause: Text,
    /// What to do, with the command to type.
    pub remedy: Text,
}

impl Advice {
    /// Cause and remedy as one line.
    pub fn sentence(&self) -> Text {
        Text::new(
            format!("{} {}", self.cause.en, self.remedy.en),
            format!("{}{}", self.cause.ja, self.remedy.ja),
        )
    }
}

/// Findings under way: the facts, and what was found so far.
struct Findings<'a> {
    facts: &'a MachineFacts,
    engine: &'a EngineFacts,
    packages: Packages,
    list: Vec<Advice>,
}

impl Findings<'_> {
    /// Adds a finding; a second one of the same rule is dropped.
    fn add(&mut self, id: &'static str, cause: Text, remedy: Text) {
        if self.list.iter().all(|advice| advice.id != id) {
            self.list.push(Advice { id, cause, remedy });
        }
    }

    fn compiled(&self, backend: Backend) -> bool {
        self.facts.build.has(backend)
    }

    fn library(&self, name: &str) -> Library {
        self.facts.library(name)
    }

    fn contained(&self) -> bool {
        self.facts.platform.container.is_some()
    }

    fn wsl2(&self) -> bool {
        self.facts.platform.wsl == Some(Wsl::Wsl2)
    }

    /// `sudo `, or nothing for root.
    fn sudo(&self) -> &'static str {
        self.packages.sudo()
    }

    /// A device file that exists but may not be opened. True when that was said.
    fn permission(&mut self, path: &str) -> bool {
        let node = self.facts.node(path);
        if !node.present || node.accessible {
            return false;
        }
        let group = node.group.unwrap_or_else(|| "render".to_owned());
        if self.contained() {
            self.add(
                "group-in-container",
                Text::new(
                    format!("`{path}` is in the container, but this user may not open it (group `{group}`)."),
                    format!("コンテナ内に `{path}` はありますが、このユーザーには開く権限がありません(グループ `{group}`)。"),
                ),
                Text::new(
                    format!("Start the container with `--group-add $(stat -c %g {path})`."),
                    format!("コンテナを `--group-add $(stat -c %g {path})` を付けて起動してください。"),
                ),
            );
        } else if node.member {
            self.add(
                "group-needs-login",
                Text::new(
                    format!("You are in the group `{group}` now, but this session began before that, so `{path}` cannot be opened."),
                    format!("グループ `{group}` には追加済みですが、このログインセッションには反映されておらず、`{path}` を開けません。"),
                ),
                Text::new(
                    format!("Log out and in again, or start the server with `sg {group} ./run.sh`."),
                    format!("ログインし直すか、`sg {group} ./run.sh` でサーバーを起動してください。"),
                ),
            );
        } else {
            let sudo = self.sudo();
            self.add(
                "group-missing",
                Text::new(
                    format!("`{path}` exists, but this user may not open it."),
                    format!("`{path}` は存在しますが、このユーザーには開く権限がありません。"),
                ),
                Text::new(
                    format!("Run `{sudo}usermod -aG {group} $USER`, then log out and in again."),
                    format!("`{sudo}usermod -aG {group} $USER` を実行し、ログインし直してください。"),
                ),
            );
        }
        true
    }

    /// The package that gives a missing library or driver.
    fn install(&self, package: &Package) -> String {
        self.packages.install(package)
    }
}

/// What keeps the GPU idle, most decisive first; empty when a real GPU does all the work.
pub fn advise(facts: &MachineFacts, engine: &EngineFacts) -> Vec<Advice> {
    let mut found = Findings {
        facts,
        engine,
        packages: Packages::of(&facts.platform),
        list: Vec::new(),
    };
    if surroundings::processor(&mut found) {
        // Neither the GPU nor the CPU can serve.
    } else if !engine.requested {
        surroundings::not_requested(&mut found);
    } else if engine.on_gpu() {
        vulkan::software_in_use(&mut found);
        surroundings::weights_on_cpu(&mut found);
    } else {
        why_on_the_cpu(&mut found);
    }
    found.list
}

fn why_on_the_cpu(found: &mut Findings<'_>) {
    surroundings::variables_without_feature(found);
    if found.facts.build.backends.is_empty() {
        surroundings::cpu_build(found);
        return;
    }
    if surroundings::wsl1(found) || surroundings::backend_does_not_fit(found) {
        return;
    }
    surroundings::memory(found);
    if found.compiled(Backend::Cuda) && nvidia::present(found) && !nvidia::driver(found) {
        cuda::cuda(found);
    }
    if found.compiled(Backend::Hip) && amd::present(found) {
        amd::rocm(found);
    }
    if surroundings::search_ended(found) {
        return;
    }
    surroundings::engine_died(found);
    if found.compiled(Backend::Vulkan) {
        vulkan::vulkan(found);
    }
    if found.compiled(Backend::OpenCl) {
        opencl::opencl(found);
    }
    surroundings::anything_else(found);
}

/// One sentence: what the model runs on, and if that is the CPU although a GPU was asked for, why.
pub fn reason(engine: &EngineFacts, advice: &[Advice]) -> Text {
    match &engine.actual {
        Some(device) if device.gpu => Text::new(
            format!(
                "The model runs on {} through {}.",
                device.description, device.backend
            ),
            format!(
                "モデルは {} 上で {} を使って動作しています。",
                device.description, device.backend
            ),
        ),
        actual => {
            if let Some(first) = advice.first() {
                first.cause.clone()
            } else if actual.is_none() {
                Text::new("No engine is running yet.", "エンジンはまだ起動していません。")
            } else {
                Text::new("The model runs on the CPU.", "モデルは CPU で動作しています。")
            }
        }
    }
}

/// A GPU that could compute, whoever made it.
fn any_gpu(facts: &MachineFacts) -> bool {
    [Vendor::Nvidia, Vendor::Amd, Vendor::Intel]
        .iter()
        .any(|vendor| facts.has_gpu(*vendor))
        || facts.node("/dev/dxg").present
        || facts.platform.os == "macos"
}
