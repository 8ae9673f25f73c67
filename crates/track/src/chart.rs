//! Line and bar charts as inline SVG.

use std::fmt::Write;

/// A named line: (step, value) points; non-finite values make a gap.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Title of the chart.
    pub title: String,
    /// What a step is.
    pub unit: String,
    /// Points in order.
    pub points: Vec<(f64, f64)>,
    /// A level to draw as a dashed line, with its name.
    pub level: Option<(f64, String)>,
}

const W: f64 = 360.0;
const H: f64 = 190.0;
const LEFT: f64 = 48.0;
const BOTTOM: f64 = 26.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 10.0;

/// Text made safe for HTML.
pub(crate) fn escape(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// About `n` round numbers that span lo..hi.
fn ticks(lo: f64, hi: f64, n: f64) -> Vec<f64> {
    let raw = ((hi - lo) / n).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw).unwrap_or(raw);
    let first = (lo / step).ceil() as i64;
    (first..=(hi / step).floor() as i64).map(|i| i as f64 * step).collect()
}

fn label(v: f64) -> String {
    if v == 0.0 {
        "0".into()
    } else if v.abs() >= 1e4 || v.abs() < 1e-3 {
        format!("{v:.0e}")
    } else {
        let s = format!("{v:.3}");
        s.trim_end_matches('0').trim_end_matches('.').to_string()
    }
}

/// Exponential moving average with a window of about a tenth of the points.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let alpha = 2.0 / (points.len() as f64 / 10.0).max(1.0).mul_add(1.0, 1.0);
    let mut mean = None;
    points
        .iter()
        .filter(|p| p.1.is_finite())
        .map(|(x, y)| {
            let m = mean.map_or(*y, |m: f64| m + alpha * (y - m));
            mean = Some(m);
            (*x, m)
        })
        .collect()
}

impl Series {
    /// The chart as a figure.
    pub(crate) fn svg(&self) -> String {
        let finite: Vec<f64> = self.points.iter().map(|p| p.1).filter(|v| v.is_finite()).collect();
        let (title, unit) = (escape(&self.title), escape(&self.unit));
        if finite.is_empty() {
            return format!("<figure><figcaption>{title}</figcaption><p class=none>no data</p></figure>");
        }
        let level = self.level.as_ref().map(|l| l.0);
        let (mut lo, mut hi) =
            finite.iter().copied().chain(level).fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        if hi - lo < 1e-12 {
            (lo, hi) = (lo - 0.5, hi + 0.5);
        }
        let pad = 0.05 * (hi - lo);
        (lo, hi) = (lo - pad, hi + pad);
        let (x0, x1) = (self.points[0].0, self.points[self.points.len() - 1].0.max(self.points[0].0 + 1e-9));
        let px = |x: f64| LEFT + (x - x0) / (x1 - x0) * (W - LEFT - RIGHT);
        let py = |y: f64| TOP + (hi - y) / (hi - lo) * (H - TOP - BOTTOM);
        let mut s = format!(
            "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {W} {H}\" role=img aria-label=\"{title}: \
             from {} to {}\">",
            label(finite[0]),
            label(finite[finite.len() - 1])
        );
        for t in ticks(lo, hi, 4.0) {
            let y = py(t);
            let _ = write!(s, "<line class=grid x1={LEFT} x2={} y1={y:.1} y2={y:.1} />", W - RIGHT);
            let _ = write!(s, "<text x={} y={:.1} text-anchor=end>{}</text>", LEFT - 5.0, y + 3.5, label(t));
        }
        for t in ticks(x0, x1, 5.0) {
            let _ = write!(s, "<text x={:.1} y={} text-anchor=middle>{}</text>", px(t), H - 10.0, label(t));
        }
        let _ = write!(s, "<text x={} y={} text-anchor=end>{unit}</text>", W - RIGHT, H - 1.0);
        if let Some((l, name)) = &self.level {
            let y = py(*l);
            let _ = write!(s, "<line class=level x1={LEFT} x2={} y1={y:.1} y2={y:.1} />", W - RIGHT);
            let _ = write!(s, "<text x={} y={:.1}>{}</text>", LEFT + 4.0, y - 3.0, escape(name));
        }
        for part in self.points.split(|p| !p.1.is_finite()).filter(|p| !p.is_empty()) {
            s += &path("raw", part, &px, &py);
        }
        s += &path("line", &smooth(&self.points), &px, &py);
        s + "</svg></figure>"
    }
}

fn path(class: &str, points: &[(f64, f64)], px: &dyn Fn(f64) -> f64, py: &dyn Fn(f64) -> f64) -> String {
    if let [(x, y)] = points {
        return format!("<circle class={class} cx={:.1} cy={:.1} r=3 />", px(*x), py(*y));
    }
    let d: Vec<String> = points.iter().map(|(x, y)| format!("{:.1} {:.1}", px(*x), py(*y))).collect();
    format!("<path class={class} d=\"M{}\" />", d.join("L"))
}

/// Bars `(label, height, mark)`; the mark is a second value shown as a line across the bar.
pub(crate) fn bars(title: &str, unit: &str, bars: &[(String, f64, Option<f64>)]) -> String {
    let top = bars.iter().map(|b| b.1.max(b.2.unwrap_or(0.0))).fold(0.0f64, f64::max);
    if top <= 0.0 {
        return format!(
            "<figure><figcaption>{}</figcaption><p class=none>no data</p></figure>",
            escape(title)
        );
    }
    let width = (W - LEFT - RIGHT) / bars.len() as f64;
    let py = |v: f64| TOP + (1.0 - v / top) * (H - TOP - BOTTOM);
    let title = escape(title);
    let mut s = format!(
        "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {W} {H}\" role=img aria-label=\"{title}\">"
    );
    for t in ticks(0.0, top, 4.0) {
        let y = py(t);
        let _ = write!(s, "<line class=grid x1={LEFT} x2={} y1={y:.1} y2={y:.1} />", W - RIGHT);
        let _ = write!(s, "<text x={} y={:.1} text-anchor=end>{}</text>", LEFT - 5.0, y + 3.5, label(t));
    }
    for (i, (name, v, mark)) in bars.iter().enumerate() {
        let x = LEFT + i as f64 * width;
        let (y, h) = (py(*v), py(0.0) - py(*v));
        let _ = write!(
            s,
            "<rect x={:.1} y={y:.1} width={:.1} height={h:.1}><title>{}: {}</title></rect>",
            x + 1.0,
            width - 2.0,
            escape(name),
            label(*v)
        );
        if let Some(m) = mark {
            let y = py(*m);
            let _ = write!(s, "<line class=level x1={:.1} x2={:.1} y1={y:.1} y2={y:.1} />", x, x + width);
        }
        if bars.len() <= 8 || i % 4 == 0 {
            let _ = write!(
                s,
                "<text x={:.1} y={} text-anchor=middle>{}</text>",
                x + width / 2.0,
                H - 12.0,
                escape(name)
            );
        }
    }
    let _ = write!(s, "<text x={} y={} text-anchor=end>{}</text>", W - RIGHT, H - 1.0, escape(unit));
    s + "</svg></figure>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_single_points_and_nothing() {
        let s = |points: &[(f64, f64)]| {
            Series { title: "a<b".into(), points: points.to_vec(), ..Series::default() }.svg()
        };
        assert!(s(&[]).contains("no data") && s(&[(1.0, f64::NAN)]).contains("no data"));
        assert!(s(&[(1.0, 2.0)]).contains("<circle"));
        let gap = s(&[(1.0, 1.0), (2.0, 2.0), (3.0, f64::NAN), (4.0, 1.0), (5.0, 0.0)]);
        assert_eq!(gap.matches("class=raw").count(), 2);
        assert!(!gap.contains("NaN") && gap.contains("a&lt;b"));
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert!(ticks(-0.31, 0.27, 4.0).iter().all(|t| (-0.31..=0.27).contains(t)));
    }
}
