//! One model in ONNX Runtime: created once, run by many threads at the same time.
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

/// A run with fewer bytes of inputs and outputs is never an outlier: its memory is too small to matter.
const LARGE: usize = 1 << 20;

/// A loaded model.
pub(super) struct Session {
    raw: NonNull<ort::sys::OrtSession>,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    limits: ScorerLimits,
    requires_elements: Option<&'static str>,
    /// The mean size of a run's inputs and outputs, in bytes.
    usual: AtomicUsize,
    // Dropped after the session, which refers to it.
    environment: Environment,
}

/// The number of the engine's threads, and how many of them one run uses.
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
        // SAFETY: created in `load`, released once, and `&mut self` proves that no run is under way.
        unsafe { (ort::api().ReleaseSession)(self.raw.as_ptr()) };
        trim_heap();
    }
}

impl Session {
    pub(super) fn load(
        environment: &Environment,
        model: &LoadedPackage,
        threads: Threads,
    ) -> ort::Result<Self> {
        // A run with one thread uses the caller's and needs no pool; a run with all threads uses the process's pool.
        let shares_pool = threads.of_a_run >= threads.all && threads.all > 1;
        let options = OrtSession::builder(environment)?
            .with_intra_threads(threads.of_a_run)?
            .with_intra_op_spinning(false)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            // ONNX Runtime plans memory per shape, which pays only if shapes repeat: not with free dimensions.
            .with_memory_pattern(!has_free_dims(&model.signature))?
            .with_env_allocators()?
            // Weights are allocated outside of the arena, which returns no memory: they are freed with the model.
            .with_config_entry("session.use_device_allocator_for_initializers", "1")?;
        let path = CString::new(model.path.as_os_str().as_bytes())?;
        let mut raw = std::ptr::null_mut();
        let api = ort::api();
        let options_ptr = options.ptr().cast_mut();
        // SAFETY: the pointers are valid for the calls; `raw` is only written on success.
        // `ort` can create sessions too, but panics on types that it does not know (sequences of sequences).
        unsafe {
            if shares_pool {
                check((api.DisablePerSessionThreads)(options_ptr))?;
            }
            check((api.CreateSession)(environment.ptr(), path.as_ptr(), options_ptr, &mut raw))?;
        }
        // The parsed form of the file was larger than the model and has just been freed.
        trim_heap();
        let raw = NonNull::new(raw).ok_or_else(|| ort::Error::new("ONNX Runtime returned no session"))?;
        let names = |ports: &[drisse_core::Port]| {
            ports.iter().map(|port| CString::new(&*port.name)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            raw,
            inputs: names(&model.signature.inputs)?,
            outputs: names(&model.signature.outputs)?,
            limits: ScorerLimits {
                concurrency: threads.all.div_ceil(threads.of_a_run).max(1),
                steady: !model.traits.data_dependent,
                rows_independent: model.traits.rows_independent,
            },
            requires_elements: model.traits.requires_elements,
            usual: AtomicUsize::new(0),
            environment: environment.clone(),
        })
    }

    /// Returns whether a run's inputs and outputs are so much larger than usual that its memory should be returned to
    /// the system.
    fn is_outlier(&self, bytes: usize) -> bool {
        let usual = self.usual.load(Relaxed);
        // A race between two runs loses one of them.
        self.usual.store(usual - usual / 8 + bytes / 8, Relaxed);
        bytes > LARGE && bytes / 16 > usual
    }

    /// Refuses inputs that would crash the process, not only fail the run.
    fn check(&self, inputs: &Inputs) -> Result<()> {
        let Some(operator) = self.requires_elements else { return Ok(()) };
        match inputs.given().find(|(_, tensor)| tensor.shape.contains(&0)) {
            None => Ok(()),
            Some((_, tensor)) => Err(Error::new(
                ErrorKind::Rejected,
                format!(
                    "an input has no elements (its shape is {:?}), but the model's {operator} requires some",
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
        for (index, tensor) in work.inputs.given() {
            names.push(self.inputs[index].as_ptr());
            values.push(Value::borrowing(tensor)?);
        }
        let inputs: SmallVec<[*const ort::sys::OrtValue; 4]> = values.iter().map(Value::as_ptr).collect();
        let wanted: SmallVec<[*const c_char; 4]> =
            work.outputs.iter().map(|&index| self.outputs[index].as_ptr()).collect();
        let mut outputs: SmallVec<[*mut ort::sys::OrtValue; 4]> =
            SmallVec::from_elem(std::ptr::null_mut(), wanted.len());
        // SAFETY: names and values live until the call returns and have the stated lengths; ONNX Runtime
        // reads the inputs and writes one new value per output, which we release.
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
        // SAFETY: each pointer is null or a value that `Run` created for us; each is taken exactly once.
        let outputs = outputs.into_iter().map(|raw| unsafe { Value::owning(raw) }).collect();
        check(status)?;
        Ok(outputs)
    }

    /// Runs the model and passes the outputs to `out`; they are released before this returns.
    fn run_into(&self, out: &mut dyn Sink, work: Work<'_>, cancel: &Cancel) -> Result<()> {
        let internal = |error: ort::Error| Error::internal(message::one_line(error.message()));
        let result = if cancel.can_be_cancelled() {
            let options = Arc::new(RunOptions::new().map_err(internal)?);
            let terminate = Arc::clone(&options);
            // If `terminate` fails, the run continues and its outputs are discarded.
            let _hook = cancel.on_cancel(move || drop(terminate.terminate()));
            self.run(work, Some(&*options))
        } else {
            self.run(work, None)
        };
        let outputs = result.map_err(|error| {
            if cancel.is_cancelled() {
                return Error::new(ErrorKind::Cancelled, "the run was canceled");
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
        for (&index, value) in work.outputs.iter().zip(&outputs) {
            match value {
                Some(value) => value.read(index, out)?,
                None => out.output(index, ValueView::Other(&drisse_core::Value::Absent))?,
            }
        }
        Ok(())
    }
}

/// Returns freed memory to the system: the C library would keep it for this process, in a heap per thread.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // Not under AddressSanitizer (`xtask/src/sanitize.rs`): it replaces the C library's allocator.
        if option_env!("DRISSE_SANITIZED").is_none() {
            // SAFETY: this is the function of malloc.h; any thread may call it at any time.
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
        let out_of_memory = matches!(&result, Err(error) if error.kind() == ErrorKind::TooLarge);
        if self.is_outlier(counted.bytes) || out_of_memory {
            arena::shrink(&self.environment);
        }
        result
    }
}

/// A sink that counts the bytes of the outputs.
struct Counted<'a> {
    out: &'a mut dyn Sink,
    bytes: usize,
}

impl Sink for Counted<'_> {
    fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
        if let ValueView::Tensor(TensorView { data: DataView::Raw(bytes), .. }) = value {
            self.bytes += bytes.len();
        }
        self.out.output(index, value)
    }
}
