//! `cargo xtask check`: what a change is likely to break, in minutes. Formatting, who may use whom, lints
//! (cargo lints again only what changed and what depends on it), and unit tests of the packages that have a changed
//! file.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::guest::{self, GUEST_TARGET};
use crate::packages::{Package, packages};
use crate::step::{Steps, cargo, run, say};
use crate::test::{check_formatting, lint};

/// The branch that changes are made against.
const MAIN: &str = "main";

/// Checks what changed since a commit, or since this branch left main, uncommitted and untracked files included.
///
/// # Errors
/// A check or a test failed, or git cannot tell what changed.
pub(crate) fn run_checks(root: &Path, since: Option<&str>) -> Result<()> {
    let base = match since {
        Some(commit) => commit.to_owned(),
        None => branch_point(root)?,
    };
    let changed = changed_files(root, &base)?;
    let guests = root.join("guest");
    let (here, there) = (touched(packages(root)?, &changed), touched(packages(&guests)?, &changed));
    let names = |packages: &[Package]| packages.iter().map(|package| package.name.clone()).collect::<Vec<_>>();
    let all: Vec<String> = names(&here).into_iter().chain(names(&there)).collect();
    let list = if all.is_empty() { "no package".to_owned() } else { all.join(", ") };
    say(&format!("{} files differ from {}, in {list}", changed.len(), &base[..base.len().min(10)]));

    let mut steps = Steps::default();
    steps.take("checking formatting", || check_formatting(root))?;
    steps.take("checking who uses whom", || {
        run(cargo(root).args(["test", "--release", "--package", "xtask", "--test", "architecture"]))
    })?;
    // The contract and the guests' own workspace files concern every guest.
    let guests_concerned = changed.iter().any(|file| file.starts_with(&guests) || file.starts_with(root.join("wit")));
    if guests_concerned {
        steps.take("building the guests", || guest::build_guests(root, guest::Which::All))?;
        steps.take("linting the guests", || lint(&guests, &GUEST_TARGET))?;
    }
    steps.take("linting (minutes the first time)", || lint(root, &[]))?;
    unit_tests(&mut steps, root, &here, &[])?;
    unit_tests(&mut steps, &guests, &there, &GUEST_TARGET)?;
    say(&format!("checked; `cargo xtask test` runs the rest:\n{}", steps.table()));
    Ok(())
}

fn unit_tests(steps: &mut Steps, workspace: &Path, packages: &[Package], arguments: &[&str]) -> Result<()> {
    for package in packages {
        let what = format!("unit tests of {}", package.name);
        let mut command = cargo(workspace);
        command.args(["test", "--release", "--package", &package.name, "--bins"]).args(arguments);
        if package.has_library {
            command.arg("--lib");
        }
        steps.take(&what, || run(&mut command))?;
    }
    Ok(())
}

/// Packages that have a changed file. A file belongs to the package whose folder is nearest above it.
fn touched(packages: Vec<Package>, changed: &[PathBuf]) -> Vec<Package> {
    let dirs: Vec<PathBuf> = packages.iter().map(|package| package.dir.clone()).collect();
    let owner =
        |file: &PathBuf| dirs.iter().filter(|dir| file.starts_with(dir)).max_by_key(|dir| dir.as_os_str().len());
    let owners: Vec<&PathBuf> = changed.iter().filter_map(owner).collect();
    packages.into_iter().filter(|package| owners.contains(&&package.dir)).collect()
}

/// Where this branch left main; HEAD on main itself, and where there is no main.
fn branch_point(root: &Path) -> Result<String> {
    let point = [MAIN, "origin/main"].iter().find_map(|main| git(root, &["merge-base", "HEAD", main]).ok());
    point.map_or_else(|| git(root, &["rev-parse", "HEAD"]), Ok)
}

/// Files that differ from a commit, those that git does not track yet among them, as full paths.
fn changed_files(root: &Path, base: &str) -> Result<Vec<PathBuf>> {
    // Renames are shown as two files, since each may lie in another package.
    let differing = git(root, &["diff", "--name-only", "--no-renames", base, "--"])?;
    let untracked = git(root, &["ls-files", "--others", "--exclude-standard"])?;
    Ok(differing.lines().chain(untracked.lines()).map(|file| root.join(file)).collect())
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").current_dir(root).args(arguments).output().context("cannot start git")?;
    let shown = arguments.join(" ");
    ensure!(output.status.success(), "git {shown} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_the_nearest_package_above_it() {
        let package =
            |name: &str, dir: &str| Package { name: name.to_owned(), dir: dir.into(), has_library: true, module: None };
        let packages =
            vec![package("outer", "/r/outer"), package("inner", "/r/outer/inner"), package("other", "/r/other")];
        let touched = |files: &[&str]| -> Vec<String> {
            let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
            touched(packages.clone(), &files).into_iter().map(|package| package.name).collect()
        };
        assert_eq!(touched(&["/r/outer/inner/src/lib.rs"]), ["inner"]);
        assert_eq!(touched(&["/r/outer/src/lib.rs", "/r/other/x"]), ["outer", "other"]);
        assert!(touched(&["/r/README.md", "/r/outermost/x"]).is_empty());
    }

    #[test]
    fn an_untracked_file_counts_as_changed() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        git(dir, &["init", "-q"]).unwrap();
        let who = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
        std::fs::write(dir.join("old"), "old").unwrap();
        git(dir, &["add", "old"]).unwrap();
        git(dir, &[&who[..], &["commit", "-qm", "first"]].concat()).unwrap();
        std::fs::write(dir.join("old"), "changed").unwrap();
        std::fs::write(dir.join("new"), "new").unwrap();
        let changed = changed_files(dir, "HEAD").unwrap();
        assert_eq!(changed, [dir.join("old"), dir.join("new")]);
    }
}
