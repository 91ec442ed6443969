//! The baselines that Drisse is compared with, in as little code as possible: ONNX Runtime's C API alone (`load`,
//! `loop`), the same behind a minimal hyper server without keys, metrics, IDs or checks (`http`), and that server
//! without a model (`echo`).
//!
//! `DRISSE_ONNXRUNTIME` names the library. Models have one FP32, INT32 or INT64 input, whose free dimensions are taken
//! as 1, and FP32 or INT64 outputs, whose shapes must be those of the first run. Everything `unsafe` is in this file.

mod http;
mod raw;
mod text;

use ort::sys::ONNXTensorElementDataType as Type;
use ort::sys::{OrtAllocatorType, OrtLoggingLevel, OrtMemType, OrtMemoryInfo, OrtSession, OrtValue};
use std::ffi::{CString, c_char, c_void};
use std::io::Write;
use std::ptr::{null, null_mut};

/// A model's input. ONNX Runtime reads it in place.
enum Input {
    F32(Vec<f32>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

/// An output, in the memory of ONNX Runtime.
enum Values<'a> {
    F32(&'a [f32]),
    I64(&'a [i64]),
}

struct Output {
    name: CString,
    datatype: Type,
    shape: Vec<i64>,
}

struct Session {
    session: *mut OrtSession,
    memory: *mut OrtMemoryInfo,
    input: Output,
    outputs: Vec<Output>,
    output_names: Vec<*const c_char>,
}

// SAFETY: a session may be run by several threads; nothing changes the rest.
unsafe impl Send for Session {}
// SAFETY: as above.
unsafe impl Sync for Session {}

fn ok(status: ort::sys::OrtStatusPtr) {
    // SAFETY: the status comes straight from a call.
    unsafe { ort::Error::result_from_status(status) }.expect("a call of ONNX Runtime succeeds");
}

impl Session {
    /// Loads a model and runs it once. The session is never released before the process ends.
    fn load(model: &str, threads: i32) -> &'static Self {
        let library = std::env::var("DRISSE_ONNXRUNTIME").expect("DRISSE_ONNXRUNTIME names the library");
        // Loads the API only; the environment is created below.
        drop(ort::init_from(library).expect("the library loads"));
        let (api, mut env, mut options, mut session, mut memory) =
            (ort::api(), null_mut(), null_mut(), null_mut(), null_mut());
        let path = CString::new(model).expect("a path");
        let spinning = c"session.intra_op.allow_spinning";
        // SAFETY: every pointer is written before it is used; nothing is released before the process ends.
        let mut loaded = unsafe {
            ok((api.CreateEnv)(OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR, c"probe".as_ptr(), &mut env));
            ok((api.CreateSessionOptions)(&mut options));
            ok((api.SetIntraOpNumThreads)(options, threads));
            ok((api.AddSessionConfigEntry)(options, spinning.as_ptr(), c"0".as_ptr()));
            ok((api.CreateSession)(env, path.as_ptr(), options, &mut session));
            let (device, plain) = (OrtAllocatorType::OrtDeviceAllocator, OrtMemType::OrtMemTypeCPU);
            ok((api.CreateCpuMemoryInfo)(device, plain, &mut memory));
            let input = Self::input(session);
            Self { session, memory, input, outputs: Self::output_names(session), output_names: Vec::new() }
        };
        loaded.output_names = loaded.outputs.iter().map(|output| output.name.as_ptr()).collect();
        let values = loaded.values(&mut loaded.zeros());
        for (output, value) in loaded.outputs.iter_mut().zip(values) {
            // SAFETY: the value is an output of the run, and a tensor; both are released here, once.
            unsafe {
                let mut info = null_mut();
                ok((api.GetTensorTypeAndShape)(value, &mut info));
                (output.datatype, output.shape) = type_and_shape(info);
                (api.ReleaseTensorTypeAndShapeInfo)(info);
                (api.ReleaseValue)(value);
            }
        }
        Box::leak(Box::new(loaded))
    }

    /// Returns the session's only input.
    ///
    /// # Safety
    /// `session` points to a live session.
    unsafe fn input(session: *const OrtSession) -> Output {
        let (api, mut allocator, mut name) = (ort::api(), null_mut(), null_mut());
        let (mut info, mut tensor) = (null_mut(), null());
        // SAFETY: every pointer is written before it is used; the name and the type are left to the process.
        unsafe {
            ok((api.GetAllocatorWithDefaultOptions)(&mut allocator));
            ok((api.SessionGetInputName)(session, 0, allocator, &mut name));
            ok((api.SessionGetInputTypeInfo)(session, 0, &mut info));
            ok((api.CastTypeInfoToTensorInfo)(info, &mut tensor));
            let (datatype, shape) = type_and_shape(tensor);
            let shape = shape.into_iter().map(|size| size.max(1)).collect();
            Output { name: CString::from_raw(name), datatype, shape }
        }
    }

    /// Returns the session's outputs with their names only; the first run supplies types and shapes.
    ///
    /// # Safety
    /// `session` points to a live session.
    unsafe fn output_names(session: *const OrtSession) -> Vec<Output> {
        let (api, mut allocator, mut count) = (ort::api(), null_mut(), 0);
        // SAFETY: as above.
        unsafe {
            ok((api.GetAllocatorWithDefaultOptions)(&mut allocator));
            ok((api.SessionGetOutputCount)(session, &mut count));
        }
        let name = |nth| {
            let mut name = null_mut();
            // SAFETY: as above.
            unsafe {
                ok((api.SessionGetOutputName)(session, nth, allocator, &mut name));
                CString::from_raw(name)
            }
        };
        let datatype = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        (0..count).map(|nth| Output { name: name(nth), datatype, shape: Vec::new() }).collect()
    }

    fn zeros(&self) -> Input {
        let count = self.input.count();
        match self.input.datatype {
            Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT => Input::F32(vec![0.0; count]),
            Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 => Input::I32(vec![0; count]),
            Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 => Input::I64(vec![0; count]),
            _ => panic!("the input is neither FP32 nor INT32 nor INT64"),
        }
    }

    /// Runs the model and returns its outputs, which the caller releases.
    fn values(&self, input: &mut Input) -> Vec<*mut OrtValue> {
        let (data, count, size): (*mut c_void, usize, usize) = match input {
            Input::F32(x) => (x.as_mut_ptr().cast(), x.len(), 4),
            Input::I32(x) => (x.as_mut_ptr().cast(), x.len(), 4),
            Input::I64(x) => (x.as_mut_ptr().cast(), x.len(), 8),
        };
        assert_eq!(count, self.input.count(), "the input is as long as its shape says");
        let (api, shape, mut value) = (ort::api(), &self.input.shape, null_mut());
        let mut outputs = vec![null_mut(); self.output_names.len()];
        // SAFETY: the memory is as long as type and shape say, and outlives the run; the value is released once.
        unsafe {
            ok((api.CreateTensorWithDataAsOrtValue)(
                self.memory,
                data,
                count * size,
                shape.as_ptr(),
                shape.len(),
                self.input.datatype,
                &mut value,
            ));
            ok((api.Run)(
                self.session,
                null(),
                &self.input.name.as_ptr(),
                &value.cast_const(),
                1,
                self.output_names.as_ptr(),
                self.output_names.len(),
                outputs.as_mut_ptr(),
            ));
            (api.ReleaseValue)(value);
        }
        outputs
    }

    /// Runs the model and passes each output with its index to `show`.
    fn run(&self, input: &mut Input, mut show: impl FnMut(usize, Values<'_>)) {
        let api = ort::api();
        for (nth, (value, output)) in self.values(input).into_iter().zip(&self.outputs).enumerate() {
            let mut data: *mut c_void = null_mut();
            // SAFETY: the value is a tensor, with the type and the shape of the first run; it is released once.
            unsafe {
                ok((api.GetTensorMutableData)(value, &mut data));
                show(
                    nth,
                    match output.datatype {
                        Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 => {
                            Values::I64(std::slice::from_raw_parts(data.cast(), output.count()))
                        }
                        _ => Values::F32(std::slice::from_raw_parts(data.cast(), output.count())),
                    },
                );
                (api.ReleaseValue)(value);
            }
        }
    }
}

impl Output {
    fn count(&self) -> usize {
        usize::try_from(self.shape.iter().product::<i64>()).expect("a size")
    }
}

/// Returns a tensor's datatype and shape.
///
/// # Safety
/// `info` points to live information about a tensor.
unsafe fn type_and_shape(info: *const ort::sys::OrtTensorTypeAndShapeInfo) -> (Type, Vec<i64>) {
    let (api, mut datatype, mut rank) = (ort::api(), Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, 0);
    // SAFETY: the shape has as many elements as the rank that the library reported.
    unsafe {
        ok((api.GetTensorElementType)(info, &mut datatype));
        ok((api.GetDimensionsCount)(info, &mut rank));
        let mut shape = vec![0; rank];
        ok((api.GetDimensions)(info, shape.as_mut_ptr(), rank));
        (datatype, shape)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match *arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        ["load", ref models @ ..] if !models.is_empty() => {
            let outputs: usize = models.iter().map(|model| Session::load(model, 1).outputs.len()).sum();
            println!("{outputs}");
            std::io::stdout().flush().expect("stdout");
            std::thread::park();
        }
        ["http", model, port] => {
            let session = Session::load(model, 1);
            let heads = &*text::heads(&session.outputs).leak();
            http::serve(port, move |body| text::answer(session, heads, &body));
        }
        ["echo", port] => http::serve(port, |body| body),
        ["loop", model, input, seconds, processes, threads] => {
            raw::processes(&[model, input, seconds, threads], processes);
        }
        ["one-loop", model, input, seconds, threads] => raw::one(model, input, seconds, threads),
        _ => eprintln!(
            "probe load MODEL … | http MODEL PORT | echo PORT | loop MODEL INPUT SECONDS PROCESSES THREADS"
        ),
    }
}
