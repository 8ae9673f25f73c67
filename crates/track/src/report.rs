//! One self-contained page: cards, curves, verdict of the reward model, samples, settings.

use crate::chart::{Series, bars, escape};
use std::fmt::Write;

/// A headline number.
#[derive(Debug, Clone, Default)]
pub struct Card {
    /// What it is.
    pub name: String,
    /// The number as shown.
    pub value: String,
    /// What it is compared with.
    pub note: String,
    /// Whether it meets its bar; none when it has none.
    pub passes: Option<bool>,
}

/// A prompt answered before and after.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// Answer and reward before.
    pub before: (String, f64),
    /// Answer and reward after.
    pub after: (String, f64),
}

/// A bar of a chart: label, height and an optional mark to compare with.
pub type Bar = (String, f64, Option<f64>);

/// Everything on the page.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Facts of the run, (name, value).
    pub facts: Vec<(String, String)>,
    /// Headline numbers.
    pub cards: Vec<Card>,
    /// Curves.
    pub series: Vec<Series>,
    /// Bar charts: title, unit, bars.
    pub charts: Vec<(String, String, Vec<Bar>)>,
    /// Held-out prompts before and after.
    pub samples: Vec<Sample>,
    /// Seconds per stage.
    pub times: Vec<(String, f64)>,
    /// All settings.
    pub config: String,
}

const STYLE: &str = "
:root{color-scheme:light dark;--bg:#fbfbf9;--card:#fff;--ink:#1d1f23;--dim:#6a7078;--rule:#e2e2dc;--a:#c2410c;--b:#0f766e;--bad:#b91c1c}
@media(prefers-color-scheme:dark){:root{--bg:#16181b;--card:#1e2125;--ink:#e8e8e4;--dim:#9aa1a9;--rule:#33373d;--a:#fb923c;--b:#2dd4bf;--bad:#f87171}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}h1{font-size:26px;margin:0 0 4px}h2{font-size:17px;margin:34px 0 10px}
.facts{color:var(--dim);font-size:13px}.facts b{color:var(--ink);font-weight:500}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:12px;margin-top:18px}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 14px}
.card .n{color:var(--dim);font-size:12.5px}.card .v{font-size:22px;font-weight:600;font-variant-numeric:tabular-nums}
.card .c{color:var(--dim);font-size:12px}.ok{color:var(--b)}.no{color:var(--bad)}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:12px}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:10px 12px}
figcaption{font-size:13px;font-weight:600;margin-bottom:4px}svg{width:100%;height:auto;display:block}
svg text{fill:var(--dim);font:10px system-ui,sans-serif}.grid{stroke:var(--rule)}.raw{fill:none;stroke:var(--a);opacity:.3}
.line{fill:none;stroke:var(--a);stroke-width:2}circle.line{fill:var(--a)}rect{fill:var(--b);opacity:.75}
.level{stroke:var(--ink);stroke-dasharray:4 3;opacity:.6}.none{color:var(--dim);font-size:13px}
.wrap{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13.5px}th,td{text-align:left;vertical-align:top;padding:8px 10px;border-top:1px solid var(--rule)}
th{color:var(--dim);font-weight:500;border-top:0}td.r{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
details{margin-top:34px}pre{overflow:auto;background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px;font-size:12.5px}
@media print{body{background:#fff}.card,figure{break-inside:avoid}}";

/// The page as HTML; nothing outside it is loaded.
pub fn render(r: &Report) -> String {
    let mut s = format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport \
         content=\"width=device-width,initial-scale=1\"><title>Ferrotune run</title><style>{STYLE}</style></head>\
         <body><main><h1>Ferrotune run</h1><p class=facts>"
    );
    let facts: Vec<String> =
        r.facts.iter().map(|(n, v)| format!("{} <b>{}</b>", escape(n), escape(v))).collect();
    s += &facts.join(" &middot; ");
    s += "</p><section class=cards>";
    r.cards.iter().for_each(|c| s += &card(c));
    s += "</section><h2>Curves</h2><section class=grid2>";
    r.series.iter().for_each(|c| s += &c.svg());
    s += "</section>";
    if !r.charts.is_empty() {
        s += "<h2>Verdict on the reward model (held-out pairs)</h2><section class=grid2>";
        r.charts.iter().for_each(|(title, unit, b)| s += &bars(title, unit, b));
        s += "</section>";
    }
    s += "<h2>Held-out prompts, before and after</h2><div class=wrap><table><tr><th>prompt<th>before<th>reward<th>after<th>reward</tr>";
    for x in &r.samples {
        let _ = write!(
            s,
            "<tr><td>{}</td><td>{}</td><td class=r>{:+.2}</td><td>{}</td><td class=r>{:+.2}</td></tr>",
            escape(&x.prompt),
            escape(&x.before.0),
            x.before.1,
            escape(&x.after.0),
            x.after.1
        );
    }
    s += "</table></div><h2>Time</h2><div class=wrap><table><tr><th>stage<th>seconds</tr>";
    for (name, t) in &r.times {
        let _ = write!(s, "<tr><td>{}</td><td class=r>{t:.1}</td></tr>", escape(name));
    }
    let _ = write!(
        s,
        "</table></div><details><summary>Settings</summary><pre>{}</pre></details>",
        escape(&r.config)
    );
    s + "</main></body></html>\n"
}

fn card(c: &Card) -> String {
    let (class, mark) = match c.passes {
        Some(true) => (" ok", " \u{2713}"),
        Some(false) => (" no", " \u{2717}"),
        None => ("", ""),
    };
    format!(
        "<div class=card><div class=n>{}</div><div class=\"v{class}\">{}{mark}</div><div class=c>{}</div></div>",
        escape(&c.name),
        escape(&c.value),
        escape(&c.note)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_escaped_and_nothing_is_loaded() {
        let evil = "<script>alert(1)</script>".to_string();
        let page = render(&Report {
            facts: vec![(evil.clone(), evil.clone())],
            cards: vec![Card { name: evil.clone(), passes: Some(false), ..Card::default() }],
            samples: vec![Sample {
                prompt: evil.clone(),
                before: (evil.clone(), 1.0),
                after: (evil.clone(), 2.0),
            }],
            charts: vec![(evil.clone(), evil.clone(), vec![(evil.clone(), 1.0, Some(0.5))])],
            config: evil.clone(),
            ..Report::default()
        });
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
        assert!(!page.contains("http") && !page.contains("src="));
        for tag in ["main", "section", "table", "svg", "figure", "details"] {
            let (open, close) =
                (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
            assert_eq!(open, close, "{tag}");
        }
    }
}
