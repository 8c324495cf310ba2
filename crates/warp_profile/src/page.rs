//! A profile as one HTML page: no script is fetched, nothing else is needed to read it.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::table::{bytes_in_words, microseconds, summary};
use crate::{Kernel, Line, Report};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2330; --dim: #6b7280; --paper: #fff; --rule: #e3e6ec; --hot: 214 69 32; --good: #1f7a4d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #9aa3b2; --paper: #14171d; --rule: #2a303b; --hot: 255 122 72; --good: #62c495; } }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .4rem; border-top: 1px solid var(--rule); padding-top: 1.2rem; }
h3 { font-size: .95rem; margin: 1.4rem 0 .3rem; color: var(--dim); font-weight: 600; }
nav a { margin-right: 1rem; } p.facts { margin: .1rem 0; color: var(--dim); } p.facts.first { color: var(--ink); }
table { border-collapse: collapse; width: 100%; font: 12.5px/1.55 ui-monospace, monospace; }
th { text-align: right; color: var(--dim); font-weight: 500; padding: .2rem .6rem; border-bottom: 1px solid var(--rule); cursor: pointer; white-space: nowrap; }
th:last-child, td:last-child { text-align: left; } td { text-align: right; padding: 0 .6rem; white-space: nowrap; vertical-align: top; }
td:last-child { white-space: pre-wrap; overflow-wrap: anywhere; } td.number { color: var(--dim); user-select: none; }
tr.advice td { white-space: normal; color: rgb(var(--hot)); font-family: system-ui, sans-serif; padding-bottom: .3rem; }
tr.advice td:last-child::before { content: '▲ '; } .bars { display: inline-block; width: 5rem; height: .7rem; background: var(--rule); }
.bars i { display: block; height: 100%; background: rgb(var(--hot)); } svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
";

/// Sorts a table by the column whose head was clicked; a line's advice stays behind it.
const SCRIPT: &str = "
for (const head of document.querySelectorAll('table.sorted th')) head.onclick = () => {
  const table = head.closest('table'), column = [...head.parentNode.children].indexOf(head), groups = [];
  for (const row of table.tBodies[0].rows) row.className == 'advice' ? groups.at(-1).push(row) : groups.push([row]);
  const value = rows => { const cell = rows[0].cells[column]; return cell.dataset.value !== undefined ? +cell.dataset.value : cell.textContent; };
  const down = head.dataset.down = head.dataset.down == '1' ? '0' : '1';
  groups.sort((a, b) => { const [x, y] = [value(a), value(b)]; const order = x < y ? -1 : x > y ? 1 : 0; return down == '1' ? -order : order; });
  for (const rows of groups) table.tBodies[0].append(...rows);
};
";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page.
pub fn page(report: &Report, title: &str) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>{STYLE}</style></head><body>\n\
         <h1>{title}</h1>\n<p class=\"facts\">Counted by softcuda, exactly; compared with {}. Cost is issue slots and passes through \
         the memory units. Click a head to sort.</p>\n",
        escape(report.card.name),
        title = escape(title),
    );
    out += "<nav>";
    for kernel in &report.kernels {
        let name = escape(&kernel.name);
        let _ = write!(out, "<a href=\"#{name}\">{name}</a>");
    }
    out += "</nav>\n";
    roofline(&mut out, report);
    for kernel in &report.kernels {
        let _ = writeln!(out, "<section id=\"{0}\"><h2>{0}</h2>", escape(&kernel.name));
        for (index, line) in summary(report, kernel).iter().enumerate() {
            let class = if index == 0 { "facts first" } else { "facts" };
            let _ = writeln!(out, "<p class=\"{class}\">{}</p>", escape(line.trim()));
        }
        hot_lines(&mut out, kernel);
        sources(&mut out, report, kernel);
        out += "</section>\n";
    }
    let _ = writeln!(out, "<script>{SCRIPT}</script></body></html>");
    out
}

fn hot_lines(out: &mut String, kernel: &Kernel) {
    *out += "<h3>Lines, the costliest first</h3>\n<table class=\"sorted\"><thead><tr>";
    for head in ["cost", "", "instructions", "lanes", "bytes", "sectors/request", "conflicts", "parted", "line"] {
        let _ = write!(out, "<th>{head}</th>");
    }
    *out += "</tr></thead><tbody>\n";
    for line in &kernel.lines {
        let numbers = &line.numbers;
        let bytes = numbers.load_bytes + numbers.store_bytes + numbers.shared_bytes;
        let sectors = if numbers.requests == 0 { "-".into() } else { format!("{:.1}", numbers.sectors_per_request()) };
        let place = if line.file.is_empty() { "of no line".to_owned() } else { format!("{}:{}", line.file, line.line) };
        let text = line.text.as_deref().unwrap_or("").trim();
        let _ = writeln!(
            out,
            "<tr><td data-value=\"{share}\">{share:.1}%</td><td data-value=\"{share}\"><span class=\"bars\"><i style=\"width:{share:.1}%\"></i></span></td>\
             <td data-value=\"{0}\">{0}</td><td data-value=\"{1}\">{1:.0}%</td><td data-value=\"{bytes}\">{2}</td>\
             <td data-value=\"{3}\">{sectors}</td><td data-value=\"{4}\">{4}</td><td data-value=\"{5}\">{5}</td><td>{6}  {7}</td></tr>",
            numbers.instructions,
            numbers.active_lanes,
            bytes_in_words(bytes),
            numbers.sectors_per_request(),
            numbers.shared_conflicts,
            numbers.divergent_branches,
            escape(&place),
            escape(text),
            share = line.share,
        );
        for advice in &line.advice {
            let _ = writeln!(out, "<tr class=\"advice\"><td colspan=\"9\">{}</td></tr>", escape(advice));
        }
    }
    *out += "</tbody></table>\n";
}

/// The kernel's sources, each line with its heat, from the first that does something to the last.
fn sources(out: &mut String, report: &Report, kernel: &Kernel) {
    let mut files: BTreeMap<&str, BTreeMap<u32, &Line>> = BTreeMap::new();
    for line in kernel.lines.iter().filter(|line| !line.file.is_empty()) {
        files.entry(&line.file).or_default().insert(line.line, line);
    }
    let hottest = kernel.lines.iter().map(|line| line.share).fold(1.0, f64::max);
    let cost = |lines: &BTreeMap<u32, &Line>| lines.values().map(|line| line.numbers.cost).sum::<u64>();
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_by_key(|(_, lines)| std::cmp::Reverse(cost(lines)));
    for (file, lines) in files {
        let (Some(text), Some((&first, _)), Some((&last, _))) =
            (report.sources.get(file), lines.first_key_value(), lines.last_key_value())
        else {
            continue;
        };
        let _ = writeln!(out, "<h3>{}</h3>\n<table><tbody>", escape(file));
        let (start, end) = (first.saturating_sub(4).max(1), (last + 3).min(text.len() as u32));
        let mut skipped = false;
        for number in start..=end {
            // Far from any line that does something.
            if lines.range(number.saturating_sub(8)..=number + 8).next().is_none() {
                if !skipped {
                    *out += "<tr><td class=\"number\">⋮</td><td></td><td></td></tr>\n";
                }
                skipped = true;
                continue;
            }
            skipped = false;
            let line = lines.get(&number);
            let share = line.map_or(0.0, |line| line.share);
            let heat = if share > 0.0 { 0.06 + 0.44 * share / hottest } else { 0.0 };
            let shown = if line.is_some() { format!("{share:.1}%") } else { String::new() };
            let _ = writeln!(
                out,
                "<tr style=\"background:rgb(var(--hot) / {heat:.3})\"><td class=\"number\">{number}</td><td>{shown}</td><td>{}</td></tr>",
                escape(&text[number as usize - 1])
            );
            for advice in line.iter().flat_map(|line| &line.advice) {
                let _ = writeln!(out, "<tr class=\"advice\"><td colspan=\"2\"></td><td>{}</td></tr>", escape(advice));
            }
        }
        *out += "</tbody></table>\n";
    }
}

/// Each kernel between the roofs of the card: operations a byte against operations a second.
fn roofline(out: &mut String, report: &Report) {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 260.0;
    let card = &report.card;
    let peak = card.float.max(card.tensor) * 1e12;
    let (low, high) = (2f64.powi(-6), 2f64.powi(11));
    let x = |intensity: f64| 50.0 + (intensity.clamp(low, high) / low).log2() / (high / low).log2() * (WIDTH - 70.0);
    let floor = card.bandwidth * 1e9 * low;
    let y =
        |rate: f64| HEIGHT - 30.0 - (rate.clamp(floor, peak) / floor).log2() / (peak / floor).log2() * (HEIGHT - 50.0);
    let _ = writeln!(
        out,
        "<h3>Roofline of {}</h3>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\">",
        escape(card.name)
    );
    for (roof, what) in [(card.float * 1e12, "f32"), (card.tensor * 1e12, "f16, tensor cores")] {
        let ridge = roof / (card.bandwidth * 1e9);
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"currentColor\" points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{what}: {} TFLOP/s</text>",
            x(low),
            y(floor),
            x(ridge),
            y(roof),
            x(high),
            y(roof),
            x(high),
            y(roof) - 4.0,
            roof / 1e12
        );
    }
    for kernel in &report.kernels {
        let Some(roof) = kernel.roofline.filter(|roof| roof.intensity > 0.0) else { continue };
        // Where the kernel could be, were the longest of its times what it takes; and where it was measured to be.
        let operations = roof.arithmetic * roof.peak * 1e6;
        let reached = kernel.time.as_ref().map_or(roof.least(), |time| time.median);
        let rate = operations / (reached / 1e6);
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"rgb(var(--hot))\"><title>{}: {}</title></circle><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x(roof.intensity),
            y(rate),
            escape(&kernel.name),
            microseconds(reached),
            x(roof.intensity) + 7.0,
            y(rate) + 4.0,
            escape(&kernel.name)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">operations a byte of global memory, from 1/64 to 2048; memory gives {} GB/s</text></svg>",
        WIDTH / 2.0,
        HEIGHT - 8.0,
        card.bandwidth
    );
}
