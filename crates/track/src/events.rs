//! TensorBoard event files: TFRecord frames of Event protocol buffers, scalars only.

/// The bytes of an event file, built up scalar by scalar.
pub struct EventFile(Vec<u8>);

impl Default for EventFile {
    fn default() -> Self {
        Self::new(0.0)
    }
}

impl EventFile {
    /// A file that begins at `wall_time` (seconds since 1970).
    pub fn new(wall_time: f64) -> Self {
        let mut file = EventFile(Vec::new());
        // Event { wall_time = 1, file_version = 3 }
        let mut event = double(1, wall_time);
        event.extend(bytes(3, b"brain.Event:2"));
        file.record(&event);
        file
    }

    /// Adds one scalar.
    pub fn scalar(&mut self, wall_time: f64, step: u64, tag: &str, value: f32) {
        // Summary.Value { tag = 1, simple_value = 2 }
        let mut v = bytes(1, tag.as_bytes());
        v.push(2 << 3 | 5);
        v.extend(value.to_le_bytes());
        // Event { wall_time = 1, step = 2, summary = 5 { value = 1 } }
        let mut event = double(1, wall_time);
        event.push(2 << 3);
        event.extend(varint(step));
        event.extend(bytes(5, &bytes(1, &v)));
        self.record(&event);
    }

    /// The file's bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn record(&mut self, data: &[u8]) {
        let length = (data.len() as u64).to_le_bytes();
        self.0.extend(length);
        self.0.extend(masked(&length).to_le_bytes());
        self.0.extend(data);
        self.0.extend(masked(data).to_le_bytes());
    }
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn bytes(field: u8, data: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    out.extend(varint(data.len() as u64));
    out.extend(data);
    out
}

fn double(field: u8, value: f64) -> Vec<u8> {
    let mut out = vec![field << 3 | 1];
    out.extend(value.to_le_bytes());
    out
}

/// CRC-32C (Castagnoli), reflected polynomial 0x82f63b78.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 })
    })
}

/// TFRecord's masked checksum.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_the_published_vectors() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn records_can_be_read_back() {
        let mut f = EventFile::new(1.5);
        f.scalar(2.5, 300, "objective/kl", 0.25);
        let bytes = f.into_bytes();
        let mut at = 0;
        let mut events = Vec::new();
        while at < bytes.len() {
            let n = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let data = &bytes[at + 12..at + 12 + n];
            let crc = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!((crc(at + 8), crc(at + 12 + n)), (masked(&bytes[at..at + 8]), masked(data)));
            events.push(data.to_vec());
            at += 16 + n;
        }
        assert_eq!(events.len(), 2);
        assert!(events[0].ends_with(b"brain.Event:2"));
        let e = &events[1];
        assert_eq!((e[0], &e[1..9], &e[9..12]), (9, &2.5f64.to_le_bytes()[..], &[16, 0xac, 2][..]));
        assert!(e.windows(12).any(|w| w == b"objective/kl") && e.ends_with(&0.25f32.to_le_bytes()));
    }
}
