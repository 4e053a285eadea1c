//! `compare` and `history` on reports with known figures.

mod common;

use std::time::Duration;

use assay_bench::compare::{DEFAULT_THRESHOLD_PERCENT, Difference, Verdict, compare};
use assay_bench::history;
use assay_bench::report::schema::Report;
use assay_bench::run::pace::Schedule;
use common::{FakeDriver, report, run};

/// Two repeats of 60 requests with delays in a pattern around `service_us`.
async fn measured(service_us: u64, wobble_percent: u64) -> Report {
    let mut repeats = Vec::new();
    for repeat in 0..2 {
        let schedule = Schedule::Closed { workers: 1, requests: Some(60) };
        let driver = FakeDriver::new(1, Duration::from_millis(50));
        let (mut drive, _) = run(driver, schedule, 8).await;
        // Replaces the recorded times, because the driver's timer counts only whole milliseconds.
        let mut done = Duration::ZERO;
        for (index, record) in drive.records.iter_mut().enumerate() {
            let step = (index as u64 * 7 + repeat) % 11;
            let delay = service_us * (1_000 - 10 * wobble_percent / 2 + wobble_percent * step) / 1_000;
            (record.intended, record.sent) = (done, done);
            done += Duration::from_micros(delay);
            record.done = done;
        }
        drive.elapsed = done;
        repeats.push(common::figures(&drive, 8));
    }
    report(repeats)
}

fn verdicts(differences: &[Difference]) -> Vec<Verdict> {
    differences.iter().map(|difference| difference.verdict).collect()
}

#[tokio::test(start_paused = true)]
async fn a_slowdown_past_the_threshold_is_a_regression_in_every_figure() {
    let (before, after) = (measured(50_000, 10).await, measured(60_000, 10).await);
    let differences = compare(&before, &after, DEFAULT_THRESHOLD_PERCENT).unwrap();
    assert_eq!(verdicts(&differences), [Verdict::Regression; 5]);
    assert!((differences[0].change_percent.value + 16.67).abs() < 0.1, "{:?}", differences[0]);
    assert!((differences[1].change_percent.value - 20.0).abs() < 0.1, "{:?}", differences[1]);
    for Difference { change_percent: change, .. } in &differences {
        assert!(change.low <= change.value && change.value <= change.high, "{change:?}");
    }
    let reversed = compare(&after, &before, DEFAULT_THRESHOLD_PERCENT).unwrap();
    assert_eq!(verdicts(&reversed), [Verdict::Improvement; 5]);
    // 16.67 % is within 25 %.
    let lenient = compare(&before, &after, 25.0).unwrap();
    assert_eq!(verdicts(&lenient), [Verdict::Same; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_difference_within_the_noise_is_no_change() {
    let (before, after) = (measured(50_000, 60).await, measured(51_000, 60).await);
    let differences = compare(&before, &after, 1.0).unwrap();
    assert_eq!(differences[1].verdict, Verdict::Same, "{:?}", differences[1]);
    assert!(differences[1].change_percent.low < 0.0, "{:?}", differences[1]);
}

#[tokio::test(start_paused = true)]
async fn reports_with_nothing_in_common_are_refused() {
    let before = measured(50_000, 10).await;
    let mut after = before.clone();
    after.configurations[0].name = "another".to_owned();
    assert!(compare(&before, &after, 5.0).unwrap_err().to_string().contains("no configuration in common"));
}

#[tokio::test(start_paused = true)]
async fn history_finds_reports_in_folders_and_sorts_them_by_time() {
    let dir = tempfile::tempdir().unwrap();
    for (name, timestamp) in [("a", "2026-02-01 00:00:00 UTC"), ("b", "2026-01-01 00:00:00 UTC")] {
        let mut report = measured(50_000, 10).await;
        report.timestamp = timestamp.to_owned();
        report.write(&dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("other.json"), "{}").unwrap();
    let reports = history::read(dir.path()).unwrap();
    let names: Vec<_> = reports.iter().map(|(path, _)| path.parent().unwrap().file_name().unwrap()).collect();
    assert_eq!(names, ["b", "a"]);
    let table = history::table(&reports);
    assert_eq!(table.lines().count(), 4, "{table}");
    let empty = tempfile::tempdir().unwrap();
    assert!(history::read(empty.path()).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_report_of_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    measured(50_000, 10).await.write(dir.path()).unwrap();
    let path = dir.path().join("report.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"schema_version\":1", "\"schema_version\":2")).unwrap();
    assert!(Report::read(dir.path()).unwrap_err().to_string().contains("schema version 2, this program reads 1"));
    std::fs::write(&path, "{}").unwrap();
    assert!(Report::read(dir.path()).unwrap_err().to_string().contains("is not a report"));
}
