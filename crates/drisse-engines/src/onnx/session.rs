//! One model in ONNX Runtime: created once, run by many threads at a time.
#![expect(
    unsafe_code,
    reason = "the C API allows concurrent runs of one session; `ort`'s own `run` takes `&mut`"
)]

use super::value::{Value, check};
use super::{arena, message};
use drisse_core::{
    Cancel, DataView, Error, ErrorKind, Inputs, LoadedPackage, Result, Scorer, ScorerLimits, Signature, Sink,
    TensorView, ValueView, Work,
};
use ort::AsPointer;
use ort::environment::Environment;
use ort::session::{RunOptions, Session as OrtSession, builder::GraphOptimizationLevel};
use smallvec::SmallVec;
use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Inputs and outputs of fewer bytes than these take no memory that would be missed.
const LARGE: usize = 1 << 20;

/// A loaded model.
pub(super) struct Session {
    raw: NonNull<ort::sys::OrtSession>,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    limits: ScorerLimits,
    wants_elements: Option<&'static str>,
    /// Bytes of a run's inputs and outputs, on average.
    usual: AtomicUsize,
    // Released after the session, which refers to it.
    environment: Environment,
}

/// How many threads there are, and how many of them work on one run.
#[derive(Clone, Copy)]
pub(super) struct Threads {
    pub(super) all: usize,
    pub(super) of_a_run: usize,
}

// SAFETY: an OrtSession may be used by any thread, and `Run` by several at once
// (onnxruntime_c_api.h, "OrtApi::Run"; docs "Can I use the same session in several threads?").
// The conformance suite and the stress test in tests/ run it from eight threads.
unsafe impl Send for Session {}
// SAFETY: as above; nothing but `Run` takes the pointer until `drop`.
unsafe impl Sync for Session {}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: created in `load`, released once, and `&mut self` says that no run is under way.
        unsafe { (ort::api().ReleaseSession)(self.raw.as_ptr()) };
        give_back();
    }
}

impl Session {
    pub(super) fn load(
        environment: &Environment,
        model: &LoadedPackage,
        threads: Threads,
    ) -> ort::Result<Self> {
        // A run that is on its caller's thread alone needs no pool; one on all of them has the process's.
        let shares_pool = threads.of_a_run >= threads.all && threads.all > 1;
        let options = OrtSession::builder(environment)?
            .with_intra_threads(threads.of_a_run)?
            .with_intra_op_spinning(false)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            // Memory plans are made per shape; they pay only when shapes repeat, which free dimensions deny.
            .with_memory_pattern(!has_free_dims(&model.signature))?
            .with_env_allocators()?
            // Weights outside of the arena, which gives nothing back: they go when their model does.
            .with_config_entry("session.use_device_allocator_for_initializers", "1")?;
        let path = CString::new(model.path.as_os_str().as_bytes())?;
        let mut raw = std::ptr::null_mut();
        let api = ort::api();
        let options_ptr = options.ptr().cast_mut();
        // SAFETY: the pointers are valid for the calls; `raw` is only written on success.
        // `ort` creates sessions too, but panics on ports it does not know (sequences of sequences).
        unsafe {
            if shares_pool {
                check((api.DisablePerSessionThreads)(options_ptr))?;
            }
            check((api.CreateSession)(environment.ptr(), path.as_ptr(), options_ptr, &mut raw))?;
        }
        // The file's parsed form is larger than the model, and gone now.
        give_back();
        let raw = NonNull::new(raw).ok_or_else(|| ort::Error::new("ONNX Runtime made no session"))?;
        let names = |ports: &[drisse_core::Port]| {
            ports.iter().map(|port| CString::new(&*port.name)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            raw,
            inputs: names(&model.signature.inputs)?,
            outputs: names(&model.signature.outputs)?,
            limits: ScorerLimits {
                concurrency: threads.all.div_ceil(threads.of_a_run).max(1),
                steady: !model.data_dependent,
                rows_meet: model.rows_meet,
            },
            wants_elements: model.wants_elements,
            usual: AtomicUsize::new(0),
            environment: environment.clone(),
        })
    }

    /// Whether what a run takes and gives is so much more than usual that its memory is better given back.
    fn is_outlier(&self, bytes: usize) -> bool {
        let usual = self.usual.load(Relaxed);
        // Of runs at the same time one may not count.
        self.usual.store(usual - usual / 8 + bytes / 8, Relaxed);
        bytes > LARGE && bytes / 16 > usual
    }

    /// What the engine would end the process for, not only the run.
    fn check(&self, inputs: &Inputs) -> Result<()> {
        let Some(operator) = self.wants_elements else { return Ok(()) };
        match inputs.given().find(|(_, tensor)| tensor.shape.contains(&0)) {
            None => Ok(()),
            Some((_, tensor)) => Err(Error::new(
                ErrorKind::Rejected,
                format!(
                    "an input has no elements (its shape is {:?}), and the model's {operator} takes none such",
                    tensor.shape
                ),
            )),
        }
    }

    fn run(
        &self,
        work: Work<'_>,
        options: Option<&RunOptions>,
    ) -> ort::Result<SmallVec<[Option<Value<'static>>; 4]>> {
        let mut names: SmallVec<[*const c_char; 4]> = SmallVec::new();
        let mut values: SmallVec<[Value<'_>; 4]> = SmallVec::new();
        for (place, tensor) in work.inputs.given() {
            names.push(self.inputs[place].as_ptr());
            values.push(Value::borrowing(tensor)?);
        }
        let inputs: SmallVec<[*const ort::sys::OrtValue; 4]> = values.iter().map(Value::as_ptr).collect();
        let wanted: SmallVec<[*const c_char; 4]> =
            work.outputs.iter().map(|&place| self.outputs[place].as_ptr()).collect();
        let mut outputs: SmallVec<[*mut ort::sys::OrtValue; 4]> =
            SmallVec::from_elem(std::ptr::null_mut(), wanted.len());
        // SAFETY: names and values live until the call returns and are as many as stated; ONNX Runtime
        // reads the inputs and writes one new value, ours to release, per output.
        let status = unsafe {
            (ort::api().Run)(
                self.raw.as_ptr(),
                options.map_or(std::ptr::null(), |options| options.ptr()),
                names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                wanted.as_ptr(),
                wanted.len(),
                outputs.as_mut_ptr(),
            )
        };
        // SAFETY: each pointer is null or a value that `Run` made for us; taken exactly once.
        let outputs = outputs.into_iter().map(|raw| unsafe { Value::owning(raw) }).collect();
        check(status)?;
        Ok(outputs)
    }

    /// Runs, and hands the outputs over; they are released before this returns.
    fn run_into(&self, out: &mut dyn Sink, work: Work<'_>, cancel: &Cancel) -> Result<()> {
        let internal = |error: ort::Error| Error::internal(message::one_line(error.message()));
        let result = if cancel.can_be_cancelled() {
            let options = Arc::new(RunOptions::new().map_err(internal)?);
            let terminate = Arc::clone(&options);
            // A flag that cannot be raised ends nothing: the run goes on, its answer goes nowhere.
            let _hook = cancel.on_cancel(move || drop(terminate.terminate()));
            self.run(work, Some(&*options))
        } else {
            self.run(work, None)
        };
        let outputs = result.map_err(|error| {
            if cancel.is_cancelled() {
                return Error::new(ErrorKind::Cancelled, "the run was cancelled");
            }
            match message::run_failure(error.message()) {
                (why, false) => {
                    Error::new(ErrorKind::Rejected, format!("the model failed on these inputs: {why}"))
                }
                (why, true) => {
                    Error::new(ErrorKind::TooLarge, format!("not enough memory for these inputs: {why}"))
                }
            }
        })?;
        for (&place, value) in work.outputs.iter().zip(&outputs) {
            match value {
                Some(value) => value.read(place, out)?,
                None => out.output(place, ValueView::Other(&drisse_core::Value::Absent))?,
            }
        }
        Ok(())
    }
}

/// Returns freed memory to the machine: the C library would keep it for this process, in the heaps of each thread.
fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // Under AddressSanitizer (`xtask/src/sanitize.rs`) memory is not the C library's, which then miscounts its own.
        if option_env!("DRISSE_SANITIZED").is_none() {
            // SAFETY: the function of malloc.h; any thread may call it at any time.
            unsafe { malloc_trim(0) };
        }
    }
}

fn has_free_dims(signature: &Signature) -> bool {
    let free = |port: &drisse_core::Port| {
        let dims = port.tensor().and_then(|tensor| tensor.shape.as_ref());
        dims.is_none_or(|dims| dims.iter().any(|dim| matches!(dim, drisse_core::Dim::Free(_))))
    };
    signature.inputs.iter().any(free)
}

impl Scorer for Session {
    fn limits(&self) -> ScorerLimits {
        self.limits
    }

    fn score(&self, work: Work<'_>, cancel: &Cancel, out: &mut dyn Sink) -> Result<()> {
        self.check(work.inputs)?;
        let mut counted = Counted { out, bytes: work.inputs.byte_len() };
        let result = self.run_into(&mut counted, work, cancel);
        let starved = matches!(&result, Err(error) if error.kind() == ErrorKind::TooLarge);
        if self.is_outlier(counted.bytes) || starved {
            arena::shrink(&self.environment);
        }
        result
    }
}

/// Counts what goes by.
struct Counted<'a> {
    out: &'a mut dyn Sink,
    bytes: usize,
}

impl Sink for Counted<'_> {
    fn output(&mut self, place: usize, value: ValueView<'_>) -> Result<()> {
        if let ValueView::Tensor(TensorView { data: DataView::Raw(bytes), .. }) = value {
            self.bytes += bytes.len();
        }
        self.out.output(place, value)
    }
}
