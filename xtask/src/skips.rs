//! What the tests skipped: collected from every test program, named at the end, and refused where it need not have
//! been.
//!
//! A test that cannot do its work calls [`testdata::skip`], which appends a line to a file. Cargo shows the output of
//! passing tests to no one, so the file is how a skip gets here. Tests that carry `#[ignore]` are read from the output
//! of the test programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use testdata::{Cause, SKIPS_VARIABLE};

use crate::step;

/// One skipped test.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Skip {
    /// `None` where the test says `#[ignore]`.
    cause: Option<String>,
    program: String,
    test: String,
    reason: String,
}

/// What this machine could have done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    /// Whether it has a Vulkan driver, or the means to set one up.
    pub(crate) vulkan: bool,
}

/// Every skip so far.
#[derive(Debug)]
pub(crate) struct Skips {
    file: PathBuf,
    found: Vec<Skip>,
}

impl Skips {
    /// Starts with none.
    ///
    /// # Errors
    /// The file of an earlier run cannot be removed.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let this = Self { file: root.join("target/skips.tsv"), found: Vec::new() };
        this.clear()?;
        Ok(this)
    }

    /// Runs a command that runs tests.
    ///
    /// # Errors
    /// It fails, or the file of skips cannot be read.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        let found = &mut self.found;
        step::run_watched(command.env(SKIPS_VARIABLE, &self.file), |line| found.extend(ignored_test(line)))?;
        self.collect()
    }

    /// Notes that a whole step was skipped.
    pub(crate) fn add(&mut self, cause: Cause, step: &str, reason: &str) {
        step::say(&format!("skipped: {step}: {reason}"));
        let (program, test) = (step.to_owned(), String::new());
        self.found.push(Skip { cause: Some(cause.name().to_owned()), program, test, reason: reason.to_owned() });
    }

    /// Forgets tests of `programs` that found no adapter: they are run again, with a driver.
    pub(crate) fn forget_no_adapter(&mut self, programs: &[&str]) {
        let again = |skip: &Skip| {
            skip.cause.as_deref() == Some(Cause::NoAdapter.name()) && programs.contains(&skip.program.as_str())
        };
        self.found.retain(|skip| !again(skip));
    }

    /// Says at the end of a run what was skipped.
    ///
    /// # Errors
    /// This is a run for others to rely on (`CI` is `true`), and `machine` could have done what was skipped.
    pub(crate) fn report(&self, machine: Machine, ci: bool) -> Result<()> {
        let (avoidable, rest) = self.split(machine);
        if !rest.is_empty() {
            step::say(&format!("{} skipped, which this machine cannot do or were not asked for:", rest.len()));
            eprint!("{}", lines(&rest));
        }
        if avoidable.is_empty() {
            return Ok(());
        }
        step::say(&format!("{} skipped, which this machine can do:", avoidable.len()));
        eprint!("{}", lines(&avoidable));
        match ci {
            true => bail!("CI is true, and {} skipped that this machine can do", avoidable.len()),
            false => Ok(()),
        }
    }

    /// What the machine could have done, and the rest; each test once, though two runs may have skipped it.
    fn split(&self, machine: Machine) -> (Vec<&Skip>, Vec<&Skip>) {
        let each: BTreeSet<&Skip> = self.found.iter().collect();
        each.into_iter().partition(|skip| skip.avoidable(machine))
    }

    fn collect(&mut self) -> Result<()> {
        if let Ok(text) = fs::read_to_string(&self.file) {
            for line in text.lines() {
                self.found.push(Skip::parse(line).with_context(|| format!("{}: {line:?}", self.file.display()))?);
            }
        }
        self.clear()
    }

    fn clear(&self) -> Result<()> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.file.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Skip {
    fn parse(line: &str) -> Option<Self> {
        let [cause, program, test, reason] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
        let [program, test, reason] = [program, test, reason].map(str::to_owned);
        Some(Self { cause: Some(cause.to_owned()), program, test, reason })
    }

    /// Whether `machine` could have run the test. A cause that is not known here counts as avoidable.
    fn avoidable(&self, machine: Machine) -> bool {
        let Some(name) = &self.cause else { return false };
        match Cause::ALL.into_iter().find(|cause| cause.name() == name) {
            Some(
                Cause::NoInstructions | Cause::NoHub | Cause::NoPackages | Cause::NoSystemFeature | Cause::NoReference,
            ) => false,
            Some(Cause::NoAdapter) => machine.vulkan,
            Some(Cause::NotSetUp) | None => true,
        }
    }
}

/// One line for each program and reason.
fn lines(skips: &[&Skip]) -> String {
    let mut groups = BTreeMap::<(&str, &str), Vec<&str>>::new();
    for skip in skips {
        groups.entry((&skip.program, &skip.reason)).or_default().push(&skip.test);
    }
    let line = |((program, reason), tests): (&(&str, &str), &Vec<&str>)| match tests[..] {
        [""] => format!("   {program}: {reason}\n"),
        [test] => format!("   {program}, {test}: {reason}\n"),
        _ => format!("   {program}, {} tests: {reason}\n", tests.len()),
    };
    groups.iter().map(line).collect()
}

/// The test that a line of a test program's output says it ignores. Which program it is stands in cargo's own output.
fn ignored_test(line: &str) -> Option<Skip> {
    let (test, reason) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    let (program, test) = ("#[ignore]".to_owned(), test.to_owned());
    Some(Skip { cause: None, program, test, reason: reason.trim_start_matches(", ").to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skips(lines: &[(Cause, &str, &str)]) -> Skips {
        let skip = |&(cause, program, reason): &(Cause, &str, &str)| {
            Skip::parse(&format!("{}\t{program}\ta_test\t{reason}", cause.name())).unwrap()
        };
        Skips { file: PathBuf::new(), found: lines.iter().map(skip).collect() }
    }

    #[test]
    fn ci_fails_on_what_the_machine_can_do_and_on_nothing_else() {
        let with_driver = Machine { vulkan: true };
        let without = Machine { vulkan: false };
        let gpu = skips(&[(Cause::NoAdapter, "gpu_kernels", "no adapter")]);
        assert!(gpu.report(with_driver, true).unwrap_err().to_string().contains("CI"));
        assert!(gpu.report(with_driver, false).is_ok());
        assert!(gpu.report(without, true).is_ok());
        let others = skips(&[(Cause::NoInstructions, "sets", "neon"), (Cause::NoHub, "scores", "no way to the hub")]);
        assert!(others.report(with_driver, true).is_ok());
        assert!(skips(&[(Cause::NotSetUp, "scores", "no model")]).report(without, true).is_err());
    }

    #[test]
    fn a_cause_that_is_not_known_counts_as_avoidable() {
        let skip = Skip::parse("too tired\tprogram\ttest\treason").unwrap();
        assert!(skip.avoidable(Machine { vulkan: false }));
    }

    #[test]
    fn tests_that_are_run_again_with_a_driver_are_forgotten() {
        let mut all = skips(&[
            (Cause::NoAdapter, "gpu_kernels", "no adapter"),
            (Cause::NoAdapter, "another", "no adapter"),
            (Cause::NoHub, "gpu_kernels", "no hub"),
        ]);
        all.forget_no_adapter(&["gpu_kernels"]);
        let left: Vec<_> = all.found.iter().map(|skip| skip.program.as_str()).collect();
        assert_eq!(left, ["another", "gpu_kernels"]);
    }

    #[test]
    fn skips_are_grouped_by_program_and_reason() {
        let all = skips(&[
            (Cause::NoAdapter, "gpu", "no adapter"),
            (Cause::NoAdapter, "gpu", "no adapter"),
            (Cause::NoHub, "scores", "offline"),
        ]);
        // Two tests of one program, as far as `lines` is concerned.
        let all: Vec<&Skip> = all.found.iter().collect();
        assert_eq!(lines(&all), "   gpu, 2 tests: no adapter\n   scores, a_test: offline\n");
    }

    #[test]
    fn a_test_that_is_skipped_in_two_runs_counts_once() {
        let all = skips(&[(Cause::NoHub, "scores", "offline"), (Cause::NoHub, "scores", "offline")]);
        assert_eq!(all.split(Machine { vulkan: false }).1.len(), 1);
    }

    #[test]
    fn ignored_tests_are_read_from_the_output() {
        let skip = ignored_test("test slow ... ignored, takes minutes").unwrap();
        assert_eq!((skip.test.as_str(), skip.reason.as_str(), skip.cause), ("slow", "takes minutes", None));
        assert_eq!(ignored_test("test other ... ignored").unwrap().reason, "");
        assert!(ignored_test("test fast ... ok").is_none());
    }
}
