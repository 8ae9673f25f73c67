//! What a dry run's memory holds, by category, at its fullest.

use std::{borrow::Cow, cell::RefCell, collections::BTreeMap};

/// What a buffer is for: a category such as `weights`, and which one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// `weights`, `gradients`, `optimiser`, `KV cache`, `activations`, `workspace`, ...
    pub category: &'static str,
    /// The tensor or the op.
    pub name: Cow<'static, str>,
}

thread_local! {
    static CURRENT: RefCell<Label> = const {
        RefCell::new(Label { category: "activations", name: Cow::Borrowed("") })
    };
}

/// Restores the label before it when dropped.
#[must_use = "the label holds while the guard lives"]
pub struct Labelled(Option<Label>);

/// Labels the buffers that this thread makes while the guard lives. Only dry runs look at labels.
pub fn label(category: &'static str, name: impl Into<Cow<'static, str>>) -> Labelled {
    let name = name.into();
    Labelled(Some(CURRENT.replace(Label { category, name })))
}

impl Drop for Labelled {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            CURRENT.set(before);
        }
    }
}

/// A live buffer: its label, and the bytes that a GPU's allocator takes for it.
pub(crate) type Entry = (Label, usize);

/// Live buffers of a dry run, and how it looked when most was live.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    live: BTreeMap<(usize, Label), usize>,
    total: usize,
    peak: Peak,
}

/// Memory at its fullest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Peak {
    /// Bytes that a GPU's caching allocator holds for the live buffers, its rounding included.
    pub bytes: usize,
    /// The same by category, most first.
    pub categories: Vec<(&'static str, usize)>,
    /// The largest buffers: label, bytes of one, how many of them.
    pub largest: Vec<(Label, usize, usize)>,
}

/// Largest buffers kept of a peak.
const LARGEST: usize = 12;

impl Ledger {
    pub(crate) fn add(&mut self, bytes: usize) -> Entry {
        let label = CURRENT.with_borrow(Clone::clone);
        *self.live.entry((bytes, label.clone())).or_default() += 1;
        self.total += bytes;
        if self.total > self.peak.bytes {
            self.peak.bytes = self.total;
            // The rest of the peak is taken when the level falls again: once a peak, not once an allocation.
            self.peak.categories.clear();
        }
        (label, bytes)
    }

    pub(crate) fn remove(&mut self, (label, bytes): Entry) {
        self.snapshot();
        let key = (bytes, label);
        if let Some(count) = self.live.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.live.remove(&key);
            }
        }
        self.total -= bytes;
    }

    fn snapshot(&mut self) {
        if self.total != self.peak.bytes || !self.peak.categories.is_empty() {
            return;
        }
        let mut by_category: BTreeMap<&'static str, usize> = BTreeMap::new();
        for ((bytes, label), count) in &self.live {
            *by_category.entry(label.category).or_default() += bytes * count;
        }
        self.peak.categories = by_category.into_iter().collect();
        self.peak.categories.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let largest = self.live.iter().rev().take(LARGEST);
        self.peak.largest = largest.map(|((bytes, label), count)| (label.clone(), *bytes, *count)).collect();
    }

    pub(crate) fn peak(&mut self) -> Peak {
        self.snapshot();
        self.peak.clone()
    }

    pub(crate) fn reset(&mut self) {
        self.peak = Peak { bytes: self.total, ..Peak::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_knows_what_was_alive() {
        let mut ledger = Ledger::default();
        let weights = {
            let _weights = label("weights", "w");
            ledger.add(1000)
        };
        let activation = ledger.add(300);
        ledger.remove(activation);
        let other = ledger.add(200);
        let peak = ledger.peak();
        assert_eq!(
            (peak.bytes, &peak.categories[..]),
            (1300, &[("weights", 1000), ("activations", 300)][..])
        );
        assert_eq!((peak.largest[0].0.name.as_ref(), peak.largest[0].1), ("w", 1000));
        ledger.reset();
        ledger.remove(weights);
        assert_eq!(ledger.peak().bytes, 1200);
        ledger.remove(other);
        assert_eq!(ledger.total, 0);
    }
}
