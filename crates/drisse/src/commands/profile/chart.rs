//! The plot for terminals, and the scales that both plots use.

use super::ms;
use drisse_scoring::{Point, Tuning};
use std::time::Duration;

const COLUMNS: usize = 64;
const ROWS: usize = 14;

/// The axes: rows per second from 0 to the right, the logarithm of the p99 latency upwards.
pub(super) struct Scales {
    pub(super) most: f64,
    shortest: f64,
    longest: f64,
}

impl Scales {
    pub(super) fn of(points: &[Point]) -> Self {
        let latencies = || points.iter().map(|point| point.trial.p99.as_secs_f64().max(1e-9));
        let shortest = latencies().fold(f64::INFINITY, f64::min);
        Self {
            most: points.iter().map(Point::rate).fold(1e-9, f64::max),
            shortest,
            // If all latencies are equal, the axis still needs a height.
            longest: latencies().fold(shortest * 1.1, f64::max),
        }
    }

    /// Returns the position of a point, from 0 to 1, to the right and upwards.
    pub(super) fn position(&self, point: &Point) -> (f64, f64) {
        let latency = point.trial.p99.as_secs_f64().max(self.shortest);
        let up = (latency / self.shortest).ln() / (self.longest / self.shortest).ln();
        (point.rate() / self.most, up)
    }

    pub(super) fn latencies(&self) -> [Duration; 2] {
        [self.shortest, self.longest].map(Duration::from_secs_f64)
    }
}

/// Returns the distinct settings of threads and workers, in order. Each has a letter or a color in the plots.
pub(super) fn ways(points: &[Point]) -> Vec<Tuning> {
    let mut ways: Vec<Tuning> = points.iter().map(|point| point.tuning).collect();
    ways.dedup();
    ways
}

pub(super) fn label(way: Tuning) -> String {
    format!("threads {}, workers {}", way.threads, way.workers)
}

/// Draws each point as the letter of its setting, and the recommended one as a star.
pub(super) fn draw(points: &[Point], recommended: Option<&Point>) -> String {
    let (scales, ways) = (Scales::of(points), ways(points));
    let letter = |point: &Point| {
        let way = ways.iter().position(|way| *way == point.tuning).unwrap_or(0);
        if Some(point) == recommended { '*' } else { (b'a' + (way % 26) as u8) as char }
    };
    let mut field = [[' '; COLUMNS]; ROWS];
    for point in points.iter().chain(recommended) {
        let (right, up) = scales.position(point);
        let row = ROWS - 1 - (up * (ROWS - 1) as f64).round() as usize;
        field[row][(right * (COLUMNS - 1) as f64).round() as usize] = letter(point);
    }
    let [shortest, longest] = scales.latencies().map(ms);
    let mut out = "p99 ms\n".to_owned();
    for (nth, row) in field.iter().enumerate() {
        let label = match nth {
            0 => &*longest,
            _ if nth == ROWS - 1 => &shortest,
            _ => "",
        };
        let line: String = row.iter().collect();
        out += &format!("{label:>9} │{}\n", line.trim_end());
    }
    let most = format!("{:.0} rows/s", scales.most);
    out += &format!("{:>9} └{}\n{:>9}  0{most:>width$}\n", "", "─".repeat(COLUMNS), "", width = COLUMNS - 1);
    for (nth, way) in ways.iter().enumerate() {
        out += &format!("{:>9}  {} {}\n", "", (b'a' + (nth % 26) as u8) as char, label(*way));
    }
    out + &format!("{:>9}  * recommended\n", "")
}
