//! The limits: `probe load MODEL` starts ONNX Runtime, loads and runs the digits model once, says so and
//! waits; `probe http MODEL PORT` serves it behind hyper with nothing around: no keys, no metrics,
//! no checks, numbers found by looking for `"data":[`.
//!
//! The library is the one in `DRISSE_ONNXRUNTIME`. Only for the digits example: FP32 [1, 64] in,
//! INT64 [1] and FP32 [1, 10] out.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use ort::sys::{ONNXTensorElementDataType as Type, OrtAllocatorType, OrtMemType};
use std::convert::Infallible;
use std::ffi::{CString, c_char, c_void};
use std::io::Write;
use std::ptr::null_mut;

#[derive(Clone, Copy)]
struct Session(*mut ort::sys::OrtSession, *mut ort::sys::OrtMemoryInfo);

// SAFETY: a session may be run by several threads; nothing changes the memory info.
unsafe impl Send for Session {}
// SAFETY: as above.
unsafe impl Sync for Session {}

fn ok(status: ort::sys::OrtStatusPtr) {
    // SAFETY: the status comes straight from a call.
    unsafe { ort::Error::result_from_status(status) }.expect("a call of ONNX Runtime succeeds");
}

impl Session {
    fn load(model: &str) -> Self {
        let library = std::env::var("DRISSE_ONNXRUNTIME").expect("DRISSE_ONNXRUNTIME names the library");
        // Makes the API known; the environment is made by hand below.
        drop(ort::init_from(library).expect("the library loads"));
        let (api, mut env, mut options, mut session, mut memory) =
            (ort::api(), null_mut(), null_mut(), null_mut(), null_mut());
        let path = CString::new(model).expect("a path");
        // SAFETY: every pointer is written before it is used; nothing is released before the process ends.
        unsafe {
            ok((api.CreateEnv)(
                ort::sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR,
                c"probe".as_ptr(),
                &mut env,
            ));
            ok((api.CreateSessionOptions)(&mut options));
            ok((api.SetIntraOpNumThreads)(options, 1));
            ok((api.CreateSession)(env, path.as_ptr(), options, &mut session));
            ok((api.CreateCpuMemoryInfo)(
                OrtAllocatorType::OrtDeviceAllocator,
                OrtMemType::OrtMemTypeCPU,
                &mut memory,
            ));
        }
        Self(session, memory)
    }

    fn run(self, x: &mut [f32; 64]) -> (i64, [f32; 10]) {
        let api = ort::api();
        let (mut input, mut outputs) = (null_mut(), [null_mut(); 2]);
        let (mut label, mut probabilities): (*mut c_void, *mut c_void) = (null_mut(), null_mut());
        let input_names: [*const c_char; 1] = [c"X".as_ptr()];
        let output_names: [*const c_char; 2] = [c"label".as_ptr(), c"probabilities".as_ptr()];
        // SAFETY: shapes and lengths are those of the digits model; values are released once.
        unsafe {
            let shape = [1_i64, 64];
            let datatype = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
            ok((api.CreateTensorWithDataAsOrtValue)(
                self.1,
                x.as_mut_ptr().cast(),
                256,
                shape.as_ptr(),
                2,
                datatype,
                &mut input,
            ));
            let inputs = [input.cast_const()];
            ok((api.Run)(
                self.0,
                std::ptr::null(),
                input_names.as_ptr(),
                inputs.as_ptr(),
                1,
                output_names.as_ptr(),
                2,
                outputs.as_mut_ptr(),
            ));
            ok((api.GetTensorMutableData)(outputs[0], &mut label));
            ok((api.GetTensorMutableData)(outputs[1], &mut probabilities));
            let answer = (*label.cast::<i64>(), *probabilities.cast::<[f32; 10]>());
            (api.ReleaseValue)(input);
            outputs.into_iter().for_each(|output| (api.ReleaseValue)(output));
            answer
        }
    }
}

async fn answer(session: Session, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let text = std::str::from_utf8(&body).expect("UTF-8");
    let data = &text[text.find("\"data\":[").expect("data") + 8..];
    let mut x = [0_f32; 64];
    let numbers = data[..data.find(']').expect("an end")].split(',');
    x.iter_mut().zip(numbers).for_each(|(x, number)| *x = number.trim().parse().expect("a number"));
    let (label, probabilities) = session.run(&mut x);
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"model_name\":\"digits\",\"model_version\":\"1\",\"outputs\":[{\"name\":\"label\",\"datatype\":\"INT64\",\"shape\":[1],\"data\":[");
    out.extend_from_slice(itoa::Buffer::new().format(label).as_bytes());
    out.extend_from_slice(
        b"]},{\"name\":\"probabilities\",\"datatype\":\"FP32\",\"shape\":[1,10],\"data\":[",
    );
    for (nth, p) in probabilities.into_iter().enumerate() {
        out.extend_from_slice(if nth > 0 { b"," } else { b"" });
        out.extend_from_slice(zmij::Buffer::new().format_finite(p).as_bytes());
    }
    out.extend_from_slice(b"]}]}");
    let response = Response::builder().header("content-type", "application/json").body(Full::new(out.into()));
    Ok(response.expect("a response"))
}

fn serve(session: Session, port: u16) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let senders: Vec<_> = (0..cores)
        .map(|_| {
            let (sender, mut streams) = tokio::sync::mpsc::unbounded_channel::<std::net::TcpStream>();
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async move {
                    while let Some(stream) = streams.recv().await {
                        let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
                        let service = service_fn(move |request| answer(session, request));
                        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                    }
                });
            });
            sender
        })
        .collect();
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    for (nth, stream) in listener.incoming().flatten().enumerate() {
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).expect("a socket");
        senders[nth % cores].send(stream).expect("its thread lives");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match *words {
        ["load", model] => {
            let (label, _) = Session::load(model).run(&mut [0.0; 64]);
            println!("{label}");
            std::io::stdout().flush().expect("stdout");
            std::thread::park();
        }
        ["http", model, port] => serve(Session::load(model), port.parse().expect("a port")),
        _ => eprintln!("probe load MODEL | probe http MODEL PORT"),
    }
}
