//! Metrics: JSONL, TensorBoard events and the HTML report.
