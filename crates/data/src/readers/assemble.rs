//! From named fields to records: which kind of record the columns make, labels, ratings, the final checks.

use std::path::Path;

use super::{Columns, Kind, LoadOptions, Loaded, at_line};
use crate::{DataError, Dataset, Demonstration, Label, Labelled, Ranked};

/// A field's value as text; `None` where the record has no such field or a null.
pub(super) type Value = Option<String>;

/// The columns chosen from those that are there.
struct Chosen {
    text: Option<String>,
    label: Option<String>,
    rating: Option<String>,
    prompt: Option<String>,
    completion: Option<String>,
    chosen: Option<String>,
    rejected: Option<String>,
}

/// Collects records of one file.
pub(super) struct Assembler<'a> {
    path: &'a Path,
    options: &'a LoadOptions,
    columns: Chosen,
    records: Loaded,
    /// Ratings waiting for a threshold: labels are set when all are read.
    unlabelled: bool,
}

impl<'a> Assembler<'a> {
    /// Decides by the columns there are what the records will be.
    pub(super) fn new(
        path: &'a Path,
        options: &'a LoadOptions,
        present: &[&str],
    ) -> Result<Assembler<'a>, DataError> {
        let columns = choose(path, &options.columns, present)?;
        let guess = match &columns {
            Chosen { chosen: Some(_), rejected: Some(_), .. } => Some(Kind::Ranked),
            Chosen { completion: Some(_), .. } => Some(Kind::Demonstrations),
            Chosen { text: Some(_), label: None, rating: None, .. } => Some(Kind::Texts),
            Chosen { text: Some(_), .. } => Some(Kind::Labelled),
            _ => None,
        };
        let Some(kind) = options.kind.or(guess) else {
            let there = if present.is_empty() { "none".to_owned() } else { quoted(present) };
            let problem = format!(
                "no usable columns: found {there}; needed are `text` and `label`, `prompt` and `completion`, or \
                 `prompt`, `chosen` and `rejected`, or name the columns to use"
            );
            return Err(at_line(path, 1, None, problem));
        };
        let missing = |name: &str| {
            let problem = format!("missing column; found {}. Name the column that holds it", quoted(present));
            at_line(path, 1, Some(name), problem)
        };
        let unlabelled = kind == Kind::Labelled && columns.label.is_none();
        let records = match kind {
            Kind::Labelled if columns.text.is_none() => return Err(missing("text")),
            Kind::Labelled if unlabelled && columns.rating.is_none() => return Err(missing("label")),
            Kind::Texts if columns.text.is_none() => return Err(missing("text")),
            Kind::Demonstrations if columns.completion.is_none() => return Err(missing("completion")),
            Kind::Ranked if columns.chosen.is_none() => return Err(missing("chosen")),
            Kind::Ranked if columns.rejected.is_none() => return Err(missing("rejected")),
            Kind::Labelled => Loaded::Labelled(Dataset::new(Vec::new())),
            Kind::Demonstrations => Loaded::Demonstrations(Dataset::new(Vec::new())),
            Kind::Ranked => Loaded::Ranked(Dataset::new(Vec::new())),
            Kind::Texts => Loaded::Texts(Dataset::new(Vec::new())),
        };
        Ok(Assembler { path, options, columns, records, unlabelled })
    }

    /// Adds the record at `line`; `get` finds a field by its name.
    pub(super) fn push(
        &mut self,
        line: u64,
        mut get: impl FnMut(&str) -> Result<Value, DataError>,
    ) -> Result<(), DataError> {
        let path = self.path;
        let mut maybe = |name: &Option<String>| name.as_deref().map_or(Ok(None), &mut get);
        let missing =
            |name: &Option<String>| at_line(path, line, name.as_deref(), "missing; every record needs it");
        let empty = |name: &Option<String>| {
            at_line(path, line, name.as_deref(), "empty; remove the record or fill it in")
        };
        let mut needed = |name: &Option<String>| match maybe(name)? {
            None => Err(missing(name)),
            Some(text) if text.trim().is_empty() => Err(empty(name)),
            Some(text) => Ok(text.trim().to_owned()),
        };
        let c = &self.columns;
        match &mut self.records {
            Loaded::Texts(set) => set.items.push(needed(&c.text)?),
            Loaded::Demonstrations(set) => {
                let completion = needed(&c.completion)?;
                let prompt = maybe(&c.prompt)?.unwrap_or_default().trim().to_owned();
                set.items.push(Demonstration { prompt, completion });
            }
            Loaded::Ranked(set) => {
                let (chosen, rejected) = (needed(&c.chosen)?, needed(&c.rejected)?);
                let prompt = maybe(&c.prompt)?.unwrap_or_default().trim().to_owned();
                set.items.push(Ranked { prompt, chosen, rejected });
            }
            Loaded::Labelled(set) => {
                let text = needed(&c.text)?;
                let label = match &c.label {
                    None => Label::Negative,
                    Some(name) => {
                        let raw = needed(&c.label)?;
                        Label::parse(&raw).ok_or_else(|| {
                            let problem = format!(
                                "unknown label `{raw}`; use 0 or 1, neg or pos, negative or positive"
                            );
                            at_line(path, line, Some(name), problem)
                        })?
                    }
                };
                let rating = match maybe(&c.rating)?.filter(|raw| !raw.trim().is_empty()) {
                    Some(raw) => Some(rating(&raw).ok_or_else(|| {
                        at_line(path, line, c.rating.as_deref(), format!("`{raw}` is not a number"))
                    })?),
                    None if self.unlabelled => return Err(missing(&c.rating)),
                    None => None,
                };
                set.items.push(Labelled { text, label, rating });
            }
        }
        Ok(())
    }

    /// Checks the whole: at least one record, labels for all, both classes.
    pub(super) fn finish(self) -> Result<Loaded, DataError> {
        let mut records = self.records;
        if records.is_empty() {
            let expected = "one record a line after the header, if any".to_owned();
            return Err(DataError::Empty { path: self.path.to_owned(), expected });
        }
        if let Loaded::Labelled(set) = &mut records {
            if self.unlabelled {
                label_by_rating(self.path, self.options, set)?;
            }
            check_classes(self.path, self.options, set)?;
        }
        Ok(records)
    }
}

/// Fails where all labels are the same, unless that is allowed.
pub(super) fn check_classes(
    path: &Path,
    options: &LoadOptions,
    set: &Dataset<Labelled>,
) -> Result<(), DataError> {
    let label = match set.class_counts() {
        [0, _] => Label::Positive.name(),
        [_, 0] => Label::Negative.name(),
        _ => return Ok(()),
    };
    if options.allow_one_class {
        return Ok(());
    }
    Err(DataError::OneClass { path: path.to_owned(), label, count: set.len() })
}

fn label_by_rating(path: &Path, options: &LoadOptions, set: &mut Dataset<Labelled>) -> Result<(), DataError> {
    let ratings = || set.items.iter().filter_map(|item| item.rating);
    let above = match options.positive_above {
        Some(above) => above,
        None if ratings().any(|r| r < 0.0) => 0.0,
        None => {
            let (low, high) =
                ratings().fold((f32::MAX, f32::MIN), |(low, high), r| (low.min(r), high.max(r)));
            let problem = format!(
                "ratings from {low} to {high} but no labels; say above which rating a text is positive (`positive_above`)"
            );
            return Err(DataError::Format { path: path.to_owned(), problem });
        }
    };
    for item in &mut set.items {
        item.label = if item.rating.is_some_and(|r| r > above) { Label::Positive } else { Label::Negative };
    }
    Ok(())
}

fn rating(raw: &str) -> Option<f32> {
    raw.trim().parse::<f32>().ok().filter(|r| r.is_finite())
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

/// The columns asked for (which must be there), else the usual names.
fn choose(path: &Path, asked: &Columns, present: &[&str]) -> Result<Chosen, DataError> {
    let pick = |asked: &Option<String>, usual: &[&str]| match asked {
        Some(name) if !present.contains(&name.as_str()) => {
            let problem = format!("missing column; the file has {}", quoted(present));
            Err(at_line(path, 1, Some(name), problem))
        }
        Some(name) => Ok(Some(name.clone())),
        None => Ok(usual.iter().find(|u| present.contains(u)).map(|u| (*u).to_owned())),
    };
    Ok(Chosen {
        text: pick(&asked.text, &["text", "review", "sentence", "content"])?,
        label: pick(&asked.label, &["label", "sentiment", "class"])?,
        rating: pick(&asked.rating, &["rating", "score", "stars"])?,
        prompt: pick(&asked.prompt, &["prompt", "query", "question"])?,
        completion: pick(&asked.completion, &["completion", "response", "answer"])?,
        chosen: pick(&asked.chosen, &["chosen"])?,
        rejected: pick(&asked.rejected, &["rejected"])?,
    })
}
