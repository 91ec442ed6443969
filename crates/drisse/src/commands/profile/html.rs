//! The HTML report: a plot and a table in one self-contained file.

use super::chart::{Scales, label, ways};
use super::{HEADING, Report, advice, cells, ms};
use drisse_scoring::Point;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
/// Space for the labels of the axes.
const MARGIN: f64 = 60.0;

/// Colors that color-blind readers can distinguish (Okabe and Ito, 2008).
const COLORS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

pub(super) fn page(report: &Report<'_>) -> String {
    let row = |point: &Point| {
        let best = if Some(point) == report.recommended() { " class=best" } else { "" };
        let cells: String = cells(point).iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
        format!("<tr{best}>{cells}</tr>\n")
    };
    let heading: String = HEADING.iter().map(|cell| format!("<th>{cell}</th>")).collect();
    let rows: String = report.profile.points.iter().map(row).collect();
    let advice = report.recommended().map_or_else(
        || "No setting reaches the goal.".to_owned(),
        |point| format!("<pre>{}</pre>", escaped(&advice(point, report))),
    );
    format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><title>{model}: profile</title>\n<style>\n\
         body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}}\n\
         svg{{width:100%;height:auto}} svg text{{font:12px system-ui,sans-serif}}\n\
         table{{border-collapse:collapse;font-variant-numeric:tabular-nums}}\n\
         td,th{{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}} .best{{background:#fff3c4}}\n\
         pre{{background:#f6f6f6;padding:1rem;overflow:auto;white-space:pre-wrap}}\n</style>\n\
         <h1>{model}</h1>\n<p>{cores} cores, {time:?} for each setting. Lower and further right is better.</p>\n{plot}\n\
         {advice}\n<table><thead><tr>{heading}</tr></thead><tbody>\n{rows}</tbody></table>\n</html>\n",
        model = escaped(report.model),
        cores = report.cores,
        time = report.time,
        plot = plot(report),
    )
}

/// Plots latency against throughput: a line for each setting of threads and workers, a point for each batch size.
fn plot(report: &Report<'_>) -> String {
    let points = &report.profile.points;
    let scales = Scales::of(points);
    let position = |point: &Point| {
        let (right, up) = scales.position(point);
        (MARGIN + right * (WIDTH - 2.0 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2.0 * MARGIN))
    };
    let mut out = format!(
        "<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img aria-label='p99 latency against rows per second'>\n"
    );
    let (bottom, right) = (HEIGHT - MARGIN, WIDTH - MARGIN);
    out += &format!("<path d='M{MARGIN} {MARGIN}V{bottom}H{right}' fill=none stroke='#888'/>\n");
    let [shortest, longest] = scales.latencies().map(ms);
    let mut text = |x: f64, y: f64, anchor: &str, text: &str| {
        out += &format!("<text x='{x}' y='{y}' text-anchor='{anchor}'>{text}</text>\n");
    };
    text(MARGIN - 8.0, bottom, "end", &shortest);
    text(MARGIN - 8.0, MARGIN + 4.0, "end", &longest);
    text(MARGIN - 8.0, MARGIN - 16.0, "start", "p99, ms");
    text(MARGIN, bottom + 18.0, "middle", "0");
    text(right, bottom + 18.0, "end", &format!("{:.0} rows/s", scales.most));
    for (nth, way) in ways(points).into_iter().enumerate() {
        let color = COLORS[nth % COLORS.len()];
        let own = || points.iter().filter(|point| point.tuning == way);
        let line: Vec<String> = own().map(position).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        out += &format!(
            "<polyline points='{}' fill=none stroke='{color}' stroke-opacity='.5'/>\n",
            line.join(" ")
        );
        for point in own() {
            let (x, y) = position(point);
            let radius = if Some(point) == report.recommended() { 8 } else { 4 };
            out += &format!(
                "<circle cx='{x:.1}' cy='{y:.1}' r='{radius}' fill='{color}'><title>{}, batch {}: {:.0} rows/s, \
                 p99 {} ms</title></circle>\n",
                label(way),
                point.batch,
                point.rate(),
                ms(point.trial.p99)
            );
        }
        let y = MARGIN + 18.0 * nth as f64;
        let x = MARGIN + 24.0;
        out += &format!("<circle cx='{x}' cy='{y}' r='4' fill='{color}'/>");
        out += &format!("<text x='{}' y='{}'>{}</text>\n", x + 10.0, y + 4.0, label(way));
    }
    out + "</svg>"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
