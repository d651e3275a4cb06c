//! How families of metrics are written.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::base::histogram::{BOUNDS_US, Histogram};
use crate::config::ledger::{PoolLedger, PoolTally};
use crate::config::plan::Pool;

/// The text under construction, one family at a time.
pub(super) struct Page<'a> {
    pub(super) encoder: DescriptorEncoder<'a>,
}

impl Page<'_> {
    /// A counter; its name without `_total`.
    pub(super) fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    pub(super) fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (L, f64)>,
    ) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            number(&mut family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        number(&mut self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?, value)
    }

    /// A gauge that is always 1 and says things in its labels; its name without `_info`.
    pub(super) fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> Result<(), Error> {
        self.encoder.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    /// A histogram per pool, in seconds.
    pub(super) fn histograms<'p>(
        &mut self,
        name: &str,
        help: &str,
        pools: &'p [Arc<Pool>],
        figure: impl Fn(&'p PoolTally) -> &'p Histogram,
    ) -> Result<(), Error> {
        self.histograms_of(name, help, pools.iter().map(|pool| (pool, merged(&pool.ledger, &figure))))
    }

    /// The same of figures that are there already: counts by bucket, and the sum in microseconds.
    pub(super) fn histograms_of<'p>(
        &mut self,
        name: &str,
        help: &str,
        figures: impl Iterator<Item = (&'p Arc<Pool>, ([u64; BOUNDS_US.len() + 1], u64))>,
    ) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (pool, (counts, sum_us)) in figures {
            let bounds = BOUNDS_US.iter().map(|&us| us as f64 / 1e6).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            family.encode_family(&[("pool", &*pool.name)])?.encode_histogram::<NoLabelSet>(
                sum_us as f64 / 1e6,
                counts.iter().sum(),
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// A gauge's value; a whole number without a decimal point.
fn number(gauge: &mut MetricEncoder, value: f64) -> Result<(), Error> {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        gauge.encode_gauge(&(value as i64))
    } else {
        gauge.encode_gauge(&value)
    }
}

/// One histogram of a pool over all workers: counts by bucket, and the sum in microseconds.
pub fn merged<'p>(
    ledger: &'p PoolLedger,
    figure: impl Fn(&'p PoolTally) -> &'p Histogram,
) -> ([u64; BOUNDS_US.len() + 1], u64) {
    let mut counts = [0; BOUNDS_US.len() + 1];
    let mut sum_us = 0;
    for histogram in ledger.tally.iter().map(figure) {
        sum_us += histogram.sum_us();
        for (total, count) in counts.iter_mut().zip(histogram.counts()) {
            *total += count;
        }
    }
    (counts, sum_us)
}
