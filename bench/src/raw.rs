//! The raw limit: processes that start together and only run the model.

use crate::{Input, Session};
use rustix::time::{ClockId, clock_gettime};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Prints the results of all processes together: runs per second, and CPU per run in µs.
pub(crate) fn processes(arguments: &[&str], processes: &str) {
    let program = std::env::current_exe().expect("this program");
    let mut children: Vec<_> = (0..processes.parse().expect("a number"))
        .map(|_| {
            let mut one = Command::new(&program);
            one.arg("one-loop").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = one.spawn().expect("a process");
            let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
            (child, lines)
        })
        .collect();
    for (_, lines) in &mut children {
        lines.next().expect("the process is ready").expect("UTF-8");
    }
    for (child, _) in &mut children {
        child.stdin.take().expect("its input").write_all(b"\n").expect("the process reads it");
    }
    let (mut rate, mut runs, mut used) = (0.0, 0.0, 0.0);
    for (child, lines) in &mut children {
        let line = lines.next().expect("a result").expect("UTF-8");
        let numbers: Vec<f64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
        rate += numbers[0] / numbers[1];
        runs += numbers[0];
        used += numbers[2];
        child.wait().expect("the process ends");
    }
    println!("{rate} {}", used / runs * 1e6);
}

/// Runs the model in one process: prints the number of runs, seconds, and CPU in seconds.
pub(crate) fn one(model: &str, input: &str, seconds: &str, threads: &str) {
    let session = Session::load(model, threads.parse().expect("a number"));
    let bytes = std::fs::read(input).expect("the input's bytes");
    let mut values = session.zeros();
    match &mut values {
        Input::F32(x) => fill(x, &bytes, f32::from_le_bytes),
        Input::I32(x) => fill(x, &bytes, i32::from_le_bytes),
        Input::I64(x) => fill(x, &bytes, i64::from_le_bytes),
    }
    let for_seconds = Duration::from_secs_f64(seconds.parse().expect("a number"));
    let mut run_for = |length: Duration| {
        let (began, mut runs) = (Instant::now(), 0_u32);
        while began.elapsed() < length {
            session.run(&mut values, |_, values| _ = std::hint::black_box(values));
            runs += 1;
        }
        (runs, began.elapsed().as_secs_f64())
    };
    run_for(for_seconds.min(Duration::from_millis(200)));
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).expect("stdin");
    let before = used();
    let (runs, took) = run_for(for_seconds);
    println!("{runs} {took} {}", used() - before);
}

fn fill<T, const SIZE: usize>(values: &mut [T], bytes: &[u8], read: impl Fn([u8; SIZE]) -> T) {
    let (numbers, _) = bytes.as_chunks::<SIZE>();
    assert_eq!(values.len(), numbers.len(), "the input is as long as its shape says");
    values.iter_mut().zip(numbers).for_each(|(value, number)| *value = read(*number));
}

/// Returns the CPU time of this process so far, in seconds.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of minutes")]
fn used() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
