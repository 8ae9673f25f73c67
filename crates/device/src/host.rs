//! The host's free memory.

use std::path::Path;

/// Bytes that the system can give without swapping: what it has available, at most what the control group leaves.
pub(crate) fn free_bytes() -> Option<usize> {
    let available = available(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let number = |name: &str| -> Option<usize> {
        std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok()?.trim().parse().ok()
    };
    // Without a limit the file says "max", which is no number.
    let left = number("memory.max").zip(number("memory.current")).map(|(max, now)| max.saturating_sub(now));
    Some(left.map_or(available, |left| left.min(available)))
}

/// The line `MemAvailable:   12345 kB`, in bytes.
fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        let text = "MemTotal:       24689000 kB\nMemFree:         1000 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(available(text), Some(20_000_000 * 1024));
        assert_eq!(available("MemTotal: 3 kB"), None);
    }
}
