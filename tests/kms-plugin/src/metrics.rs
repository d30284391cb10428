//! The metrics of `/metrics`: the number of KMS calls, their results and their durations.

use std::{
    fmt,
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tonic::Code;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    operation: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

/// The metrics of this process.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Ended, Counter>,
    duration: Family<Operation, Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("vault_kube_kms");
        let requests = Family::default();
        // 1 ms to 16 s.
        let duration: Family<Operation, Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15)));
        registry.register("requests", "KMS v2 calls by their gRPC code", requests.clone());
        registry.register_with_unit(
            "request_duration",
            "How long KMS v2 calls took",
            Unit::Seconds,
            duration.clone(),
        );
        Self { registry, requests, duration }
    }
}

impl Metrics {
    pub(crate) fn record(&self, operation: &'static str, code: Code, began: Instant) {
        let took: Duration = began.elapsed();
        self.requests.get_or_create(&Ended { operation, code: format!("{code:?}") }).inc();
        self.duration.get_or_create(&Operation { operation }).observe(took.as_secs_f64());
    }

    /// In OpenMetrics' text format.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
