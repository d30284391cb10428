//! Go's own reading of durations, to compare with; a fuzz target uses it too.

/// Go's `time.ParseDuration` of Go 1.26, statement by statement, of what is not negative.
#[allow(clippy::many_single_char_names)] // Go's own
pub fn parse_duration(mut s: &[u8]) -> Option<u64> {
    const LIMIT: u64 = 1 << 63;
    let neg = s.first() == Some(&b'-');
    if let Some(b'-' | b'+') = s.first() {
        s = &s[1..];
    }
    if s == b"0" {
        return Some(0);
    }
    if s.is_empty() {
        return None;
    }
    let mut d = 0_u64;
    while !s.is_empty() {
        if s[0] != b'.' && !s[0].is_ascii_digit() {
            return None;
        }
        let before = s.len();
        let mut v = 0_u64;
        while let Some(c) = s.first().filter(|c| c.is_ascii_digit()) {
            if v > LIMIT / 10 {
                return None;
            }
            v = v * 10 + u64::from(c - b'0');
            if v > LIMIT {
                return None;
            }
            s = &s[1..];
        }
        let pre = before != s.len();
        let (mut f, mut scale, mut post) = (0_u64, 1.0_f64, false);
        if s.first() == Some(&b'.') {
            s = &s[1..];
            let before = s.len();
            let mut overflow = false;
            while let Some(c) = s.first().filter(|c| c.is_ascii_digit()) {
                s = &s[1..];
                if overflow {
                    continue;
                }
                if f > (LIMIT - 1) / 10 {
                    overflow = true;
                    continue;
                }
                let y = f * 10 + u64::from(c - b'0');
                if y > LIMIT {
                    overflow = true;
                    continue;
                }
                f = y;
                scale *= 10.0;
            }
            post = before != s.len();
        }
        if !pre && !post {
            return None;
        }
        let end = s.iter().position(|c| *c == b'.' || c.is_ascii_digit()).unwrap_or(s.len());
        let (u, rest) = s.split_at(end);
        s = rest;
        let unit: u64 = match std::str::from_utf8(u).ok()? {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        if v > LIMIT / unit {
            return None;
        }
        v *= unit;
        if f > 0 {
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let part = (f as f64 * (unit as f64 / scale)) as u64;
            v = v.checked_add(part)?;
            if v > LIMIT {
                return None;
            }
        }
        d = d.checked_add(v)?;
        if d > LIMIT {
            return None;
        }
    }
    if neg { (d == 0).then_some(0) } else { (d < LIMIT).then_some(d) }
}
