//! Lines with their numbers, blank ones left out.

/// 1-based number and content of every line that is not blank.
pub(super) fn numbered(text: &str) -> impl Iterator<Item = (u64, &str)> {
    text.lines().enumerate().map(|(i, line)| (i as u64 + 1, line.trim())).filter(|(_, line)| !line.is_empty())
}
