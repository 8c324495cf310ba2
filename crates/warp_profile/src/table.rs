//! A profile as text.

use std::fmt::Write;

use crate::{Kernel, Line, Numbers, Report};

/// Lines of a kernel that are shown.
const MOST_LINES: usize = 12;

/// The kernels, each with what limits it and its costliest lines.
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    for kernel in &report.kernels {
        if !out.is_empty() {
            out.push('\n');
        }
        for line in summary(report, kernel) {
            let _ = writeln!(out, "{line}");
        }
        let _ = writeln!(
            out,
            "\n{:>6} {:>12} {:>6} {:>10} {:>9} {:>9} {:>6}  line",
            "cost", "instructions", "lanes", "bytes", "sect/req", "conflicts", "parted"
        );
        for line in kernel.lines.iter().take(MOST_LINES) {
            let Numbers { instructions, active_lanes, shared_conflicts, divergent_branches, .. } = line.numbers;
            let sectors = match line.numbers.requests {
                0 => "-".to_owned(),
                _ => format!("{:.1}", line.numbers.sectors_per_request()),
            };
            let bytes = line.numbers.load_bytes + line.numbers.store_bytes + line.numbers.shared_bytes;
            let _ = writeln!(
                out,
                "{:>5.1}% {instructions:>12} {active_lanes:>5.0}% {:>10} {sectors:>9} {shared_conflicts:>9} {divergent_branches:>6}  {}",
                line.share,
                bytes_in_words(bytes),
                place(line)
            );
            for advice in &line.advice {
                let _ = writeln!(out, "{:>65}- {advice}", "");
            }
        }
        if kernel.lines.len() > MOST_LINES {
            let rest: f64 = kernel.lines[MOST_LINES..].iter().map(|line| line.share).sum();
            let _ = writeln!(out, "{rest:>5.1}% {:>58} in {} more lines", "", kernel.lines.len() - MOST_LINES);
        }
    }
    out
}

/// What there is to say of a kernel as a whole, a sentence a line.
pub(crate) fn summary(report: &Report, kernel: &Kernel) -> Vec<String> {
    let card = &report.card;
    let mut lines = Vec::new();
    let launches: u64 = kernel.launches.iter().map(|launch| launch.count).sum();
    let shape = kernel.launches.first().map_or(String::new(), |launch| {
        let dims = |d: [u32; 3]| d.iter().map(u32::to_string).collect::<Vec<_>>().join("×");
        let shared = match launch.dynamic_shared {
            0 => String::new(),
            bytes => format!(", {bytes} bytes of dynamic shared memory"),
        };
        format!(", mostly {} blocks of {} threads{shared}", dims(launch.grid), dims(launch.block))
    });
    lines.push(format!("{}: {launches} launch{}{shape}", kernel.name, if launches == 1 { "" } else { "es" }));
    let mut classes: Vec<(&String, &u64)> = kernel.numbers.by_class.iter().filter(|class| *class.1 > 0).collect();
    classes.sort_by_key(|class| std::cmp::Reverse(*class.1));
    let total = kernel.numbers.instructions.max(1) as f64;
    let classes: Vec<String> =
        classes.iter().map(|(name, count)| format!("{name} {:.0}%", 100.0 * **count as f64 / total)).collect();
    lines.push(format!("  {} warp instructions: {}", kernel.numbers.instructions, classes.join(", ")));
    match &kernel.assembled {
        Ok(assembled) => lines.push(format!(
            "  {} registers, {} bytes spilled, {} bytes of static shared memory",
            assembled.registers,
            assembled.spill_stores + assembled.spill_loads,
            kernel.static_shared
        )),
        Err(why) => {
            lines.push(format!("  registers unknown ({why}), {} bytes of static shared memory", kernel.static_shared))
        }
    }
    if let Some(occupancy) = kernel.occupancy {
        let known = if kernel.assembled.is_ok() { "" } else { " at most" };
        lines.push(format!(
            "  {}:{known} {} blocks, {} of {} warps on a multiprocessor ({:.0}%), limited by {}",
            card.name, occupancy.blocks, occupancy.warps, card.warps, occupancy.percent, occupancy.limiter
        ));
    }
    if let Some(roofline) = kernel.roofline {
        lines.push(format!(
            "  {}: a launch takes at least {} (memory {}, arithmetic {}, issue {}): bound by {}; {:.2} operations a byte",
            card.name,
            microseconds(roofline.least()),
            microseconds(roofline.memory),
            microseconds(roofline.arithmetic),
            microseconds(roofline.issue),
            roofline.bound,
            roofline.intensity
        ));
    }
    if let Some(time) = &kernel.time {
        lines.push(format!(
            "  measured: {} at least, {} in the middle of {} launches",
            microseconds(time.least),
            microseconds(time.median),
            time.launches
        ));
    }
    lines
}

pub(crate) fn microseconds(time: f64) -> String {
    match time {
        time if time < 1.0 => format!("{:.1} ns", time * 1e3),
        time if time < 1e3 => format!("{time:.1} µs"),
        time => format!("{:.1} ms", time / 1e3),
    }
}

pub(crate) fn bytes_in_words(bytes: u64) -> String {
    match bytes {
        0 => "-".to_owned(),
        1..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        _ => format!("{:.0} MB", bytes as f64 / 1e6),
    }
}

fn place(line: &Line) -> String {
    if line.file.is_empty() {
        return "of no line: what the compiler made up".to_owned();
    }
    let text = line.text.as_deref().map_or(String::new(), |text| format!("  {}", text.trim()));
    format!("{}:{}{text}", line.file, line.line)
}
