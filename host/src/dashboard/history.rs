//! The last hour of samples: of the server, and of each tenant.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use super::sample::{SERIES, Sample, TENANT_SERIES, rounded};
use super::{INTERVAL, Viewer};

/// Samples that are kept: an hour.
const MAX_SAMPLES: usize = 3_600 / INTERVAL.as_secs() as usize;

/// Samples of each tenant that the operator's table draws: two minutes.
const SPARK_SAMPLES: usize = 60;

/// An hour of samples. A tenant takes 43 KB, and as many are kept as are told by name.
#[derive(Debug, Default)]
pub(super) struct History {
    at_ms: VecDeque<u64>,
    all: VecDeque<[f32; SERIES.len()]>,
    tenants: HashMap<String, VecDeque<[f32; TENANT_SERIES.len()]>>,
}

impl History {
    pub(super) fn push(&mut self, sample: &Sample) {
        keep(&mut self.at_ms, sample.at_ms);
        keep(&mut self.all, sample.series);
        for tenant in &sample.tenants {
            match self.tenants.get_mut(&tenant.name) {
                Some(samples) => keep(samples, tenant.series),
                None => drop(self.tenants.insert(tenant.name.clone(), VecDeque::from([tenant.series]))),
            }
        }
    }

    /// The history as its viewer may see it.
    pub(super) fn json(&self, viewer: &Viewer) -> String {
        let columns = |names: &[&str], column: &dyn Fn(usize) -> Vec<Value>| -> Value {
            names.iter().enumerate().map(|(index, name)| ((*name).to_owned(), json!(column(index)))).collect()
        };
        let none = VecDeque::new();
        let (series, at, sparks) = match viewer {
            Viewer::Operator => {
                let series = columns(&SERIES, &|index| self.all.iter().map(|sample| rounded(sample[index])).collect());
                // Requests a second.
                let sparks = self.tenants.iter().map(|(name, samples)| {
                    let newest = samples.iter().skip(samples.len().saturating_sub(SPARK_SAMPLES));
                    (name.clone(), json!(newest.map(|sample| rounded(sample[1])).collect::<Vec<_>>()))
                });
                (series, self.at_ms.iter().copied().collect::<Vec<_>>(), sparks.collect::<Value>())
            }
            Viewer::Tenant(name) => {
                let samples = self.tenants.get(name).unwrap_or(&none);
                let series =
                    columns(&TENANT_SERIES, &|index| samples.iter().map(|sample| rounded(sample[index])).collect());
                // A tenant may be younger than the server.
                let at = self.at_ms.iter().skip(self.at_ms.len().saturating_sub(samples.len())).copied();
                (series, at.collect(), json!({}))
            }
        };
        let viewer = match viewer {
            Viewer::Operator => Value::Null,
            Viewer::Tenant(name) => json!(name),
        };
        json!({ "interval_ms": INTERVAL.as_millis() as u64, "tenant": viewer, "at": at, "series": series, "sparks": sparks })
            .to_string()
    }
}

fn keep<T>(samples: &mut VecDeque<T>, sample: T) {
    if samples.len() == MAX_SAMPLES {
        samples.pop_front();
    }
    samples.push_back(sample);
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample_of;
    use super::*;

    #[test]
    fn an_hour_is_kept_and_a_tenant_sees_itself_only() {
        let mut history = History::default();
        for at_ms in 0..MAX_SAMPLES as u64 + 10 {
            history.push(&sample_of(at_ms, &[("acme", 1), ("secret-neighbour", 1)]));
        }
        history.push(&sample_of(9_999, &[("acme", 1), ("secret-neighbour", 1), ("late", 1)]));
        let operator: Value = serde_json::from_str(&history.json(&Viewer::Operator)).unwrap();
        assert_eq!(operator["at"].as_array().unwrap().len(), MAX_SAMPLES);
        assert_eq!(operator["series"]["p95_ms"].as_array().unwrap().len(), MAX_SAMPLES);
        assert_eq!(operator["sparks"]["acme"].as_array().unwrap().len(), SPARK_SAMPLES);
        let own = history.json(&Viewer::Tenant("acme".to_owned()));
        assert!(!own.contains("secret-neighbour") && !own.contains("utilization"), "{own}");
        let late: Value = serde_json::from_str(&history.json(&Viewer::Tenant("late".to_owned()))).unwrap();
        assert_eq!(late["at"], json!([9_999]));
    }
}
