//! Unified diffs, applied strictly: every line of a hunk must be where the hunk says.

use std::error::Error;
use std::fmt;

/// Why a patch does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatchError {
    /// The text is no unified diff. Names the line, counted from 1.
    Malformed { line: usize },
    /// The file has another line than the patch says, or ends before it. Names the line of the file, counted from 1.
    Different { line: usize, expected: String },
}

impl fmt::Display for PatchError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { line } => {
                write!(out, "line {line} of the patch is not a line of a unified diff")
            }
            Self::Different { line, expected } => {
                write!(
                    out,
                    "line {line} of the source is not `{expected}`: these sources are not those that the patch was made for"
                )
            }
        }
    }
}

impl Error for PatchError {}

/// The part of `patch` that concerns `file`, with the number of its first line; `None` when there is none.
fn section<'a>(patch: &'a str, file: &str) -> Option<(usize, Vec<&'a str>)> {
    let lines: Vec<&str> = patch.lines().collect();
    let start = lines
        .windows(2)
        .position(|pair| pair[0].starts_with("--- ") && pair[1].strip_prefix("+++ b/") == Some(file))?
        + 2;
    let end = lines[start..]
        .windows(2)
        .position(|pair| pair[0].starts_with("--- a/") && pair[1].starts_with("+++ b/"))
        .map_or(lines.len(), |length| start + length);
    Some((start, lines[start..end].to_vec()))
}

/// Files that a patch changes, as it names them.
pub fn files(patch: &str) -> Vec<&str> {
    patch
        .lines()
        .filter_map(|line| line.strip_prefix("+++ b/"))
        .collect()
}

/// The first line of a hunk in the old file, counted from 1: the 12 of `@@ -12,7 +12,9 @@`.
fn first_line(header: &str) -> Option<usize> {
    let numbers = header.strip_prefix("@@ -")?;
    let end = numbers.find([',', ' '])?;
    numbers[..end].parse().ok().filter(|line| *line > 0)
}

/// `text`, the content of `file`, with the changes of `patch`. Text that the patch does not name comes back as it is.
///
/// # Errors
///
/// `Different` where the text is not what the patch expects, `Malformed` for a patch that is no unified diff.
pub fn apply(text: &str, file: &str, patch: &str) -> Result<String, PatchError> {
    let Some((offset, hunks)) = section(patch, file) else {
        return Ok(text.to_owned());
    };
    let old: Vec<&str> = text.split_inclusive('\n').collect();
    let mut new = String::with_capacity(text.len() + patch.len());
    let mut next = 0; // line of the old file that was not copied yet
    for (number, line) in hunks.into_iter().enumerate() {
        let malformed = PatchError::Malformed {
            line: offset + number + 1,
        };
        if line.starts_with("@@") {
            let start = first_line(line).ok_or_else(|| malformed.clone())? - 1;
            if start < next || start > old.len() {
                return Err(malformed);
            }
            new.extend(old[next..start].iter().copied());
            next = start;
            continue;
        }
        let (kind, rest) = line.split_at_checked(1).unwrap_or((" ", ""));
        match kind {
            "+" => {
                new.push_str(rest);
                new.push('\n');
            }
            " " | "-" => {
                let found = old.get(next).copied();
                if found.map(|line| line.trim_end_matches('\n')) != Some(rest) {
                    return Err(PatchError::Different {
                        line: next + 1,
                        expected: rest.to_owned(),
                    });
                }
                if kind == " " {
                    new.extend(found);
                }
                next += 1;
            }
            _ => return Err(malformed),
        }
    }
    new.extend(old[next..].iter().copied());
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "why\n\n--- a/x.c\n+++ b/x.c\n@@ -2,3 +2,3 @@ int main\n two\n-three\n+3\n four\n";

    #[test]
    fn a_hunk_replaces_its_lines() {
        assert_eq!(
            apply("one\ntwo\nthree\nfour\nfive\n", "x.c", PATCH).unwrap(),
            "one\ntwo\n3\nfour\nfive\n"
        );
        assert_eq!(files(PATCH), ["x.c"]);
    }

    #[test]
    fn other_sources_are_refused() {
        let moved = apply("zero\none\ntwo\nthree\nfour\n", "x.c", PATCH);
        assert_eq!(
            moved,
            Err(PatchError::Different {
                line: 2,
                expected: "two".into()
            })
        );
        let done = apply("one\ntwo\n3\nfour\n", "x.c", PATCH);
        assert_eq!(
            done,
            Err(PatchError::Different {
                line: 3,
                expected: "three".into()
            })
        );
        let short = apply("one\n", "x.c", PATCH);
        assert_eq!(
            short,
            Err(PatchError::Different {
                line: 2,
                expected: "two".into()
            })
        );
    }

    #[test]
    fn a_file_that_is_not_named_stays() {
        assert_eq!(apply("anything", "y.c", PATCH).unwrap(), "anything");
    }

    #[test]
    fn what_is_no_diff_is_refused() {
        let patch = "--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\nwhat\n";
        assert_eq!(
            apply("one\n", "x.c", patch),
            Err(PatchError::Malformed { line: 4 })
        );
        let patch = "--- a/x.c\n+++ b/x.c\n@@ nonsense @@\n one\n";
        assert_eq!(
            apply("one\n", "x.c", patch),
            Err(PatchError::Malformed { line: 3 })
        );
    }
}
