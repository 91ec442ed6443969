//! Recognizes files in other formats than ONNX, and gives the command that converts them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How many bytes are read to recognize a format: tar has its magic number at byte 257.
const HEAD: u64 = 512;

/// Returns the format of `file` and a hint, if it is a known format other than ONNX. Rewinds the file.
pub(crate) fn other_format(mut file: &File, path: &Path) -> io::Result<Option<(String, String)>> {
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head)?;
    let zip_names = if head.starts_with(b"PK\x03\x04") { tail(file)? } else { Vec::new() };
    file.seek(SeekFrom::Start(0))?;
    let shown = path.display().to_string();
    let known = if head.is_empty() { Some(empty()) } else { by_content(&head, &zip_names, path, &shown) };
    Ok(known.map(|(what, hint)| (what.to_owned(), hint)))
}

/// Reads the end of a zip archive, which has the names of its files.
fn tail(mut file: &File) -> io::Result<Vec<u8>> {
    const TABLE: u64 = 64 << 10;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TABLE)))?;
    let mut tail = Vec::new();
    file.take(TABLE).read_to_end(&mut tail)?;
    Ok(tail)
}

fn empty() -> (&'static str, String) {
    ("empty", "copy or download the file again".to_owned())
}

fn by_content(head: &[u8], zip_names: &[u8], path: &Path, shown: &str) -> Option<(&'static str, String)> {
    let has = |needle: &[u8]| zip_names.windows(needle.len()).any(|window| window == needle);
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let keras = format!(
        "python -c \"import keras; keras.saving.load_model('{shown}').export('model.onnx', format='onnx')\""
    );
    let torch = format!(
        "python -c \"import torch; m = torch.load('{shown}', weights_only=False); \
         torch.onnx.export(m.eval(), (example_input,), 'model.onnx', dynamo=True)\""
    );
    let sklearn = format!(
        "python -c \"import joblib, skl2onnx; m = joblib.load('{shown}'); open('model.onnx', 'wb').write(\
         skl2onnx.to_onnx(m, X[:1], options={{'zipmap': False}}).SerializeToString())\", X being some training rows"
    );
    let saved_model =
        "pip install tf2onnx && python -m tf2onnx.convert --saved-model FOLDER --output model.onnx";
    Some(match head {
        _ if head.starts_with(b"version https://git-lfs.github.com/spec/v1") => {
            ("a Git LFS pointer", format!("fetch the file itself: `git lfs pull --include '{shown}'`"))
        }
        _ if has(b"/data.pkl") || has(b"constants.pkl") => {
            ("a PyTorch file", format!("export it where PyTorch and the model's code are: {torch}"))
        }
        _ if has(b"model.weights.h5") => ("a Keras model", format!("convert it: {keras}")),
        _ if has(b".npy") => ("a NumPy archive", "it holds arrays, not a model: export the model from its framework".to_owned()),
        [b'P', b'K', 3, 4, ..] => {
            ("a zip archive", format!("unpack it and name the .onnx file inside: `unzip '{shown}'`"))
        }
        [0x80, 2..=5, ..] if matches!(extension, "pt" | "pth") => {
            ("a PyTorch file (a pickle)", format!("export it where PyTorch and the model's code are: {torch}"))
        }
        [0x80, 2..=5, ..] => (
            "a Python pickle (scikit-learn, XGBoost …)",
            format!("pickles run code when they are loaded, so Drisse never opens one; convert it: {sklearn}"),
        ),
        // A compressed joblib file can start as zlib, gzip, bz2, xz, lzma or lz4.
        _ if extension == "joblib" => ("a joblib file", format!("convert it: {sklearn}")),
        [0x1f, 0x8b, ..] if is_tar(&gunzipped(head)) => ("a tar archive compressed with gzip", untar(shown)),
        [0x1f, 0x8b, ..] => ("compressed with gzip", format!("unpack it: `gunzip -k '{shown}'`")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("compressed with zstd", format!("unpack it: `unzstd '{shown}'`")),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("compressed with xz", format!("unpack it: `unxz -k '{shown}'`")),
        _ if is_tar(head) => ("a tar archive", untar(shown)),
        _ if head.starts_with(b"\x89HDF\r\n\x1a\n") => ("an HDF5 file (Keras)", format!("convert it: {keras}")),
        _ if head.starts_with(b"GGUF") => (
            "a GGUF file (llama.cpp)",
            "it has weights but no graph; export the original model to ONNX with `optimum-cli export onnx`".to_owned(),
        ),
        _ if head.get(4..8) == Some(b"TFL3") => (
            "a TensorFlow Lite model",
            format!("pip install tf2onnx && python -m tf2onnx.convert --tflite '{shown}' --output model.onnx"),
        ),
        _ if head.get(4..8) == Some(b"ORTM") => (
            "a model in ONNX Runtime's own format (.ort)",
            "serve the .onnx file that it was made from, which runs on every version of ONNX Runtime".to_owned(),
        ),
        _ if head.starts_with(b"CBM1") => (
            "a CatBoost model",
            format!(
                "python -c \"from catboost import CatBoost; CatBoost().load_model('{shown}')\
                 .save_model('model.onnx', format='onnx')\""
            ),
        ),
        _ if head.starts_with(b"tree\nversion=") => (
            "a LightGBM text model",
            "convert it: `onnxmltools.convert_lightgbm(lightgbm.Booster(model_file=…), initial_types=…)`".to_owned(),
        ),
        [b'{', b'L', ..] => ("an XGBoost UBJSON model", xgboost(shown)),
        _ if head.starts_with(b"{\"learner\"") => ("an XGBoost JSON model", xgboost(shown)),
        _ if safetensors(head) => (
            "a safetensors file",
            "it has weights but no graph; export the model to ONNX with `optimum-cli export onnx --model FOLDER out`"
                .to_owned(),
        ),
        _ if path.file_name().is_some_and(|name| name == "saved_model.pb") => {
            ("part of a TensorFlow SavedModel", format!("convert its folder: {saved_model}"))
        }
        _ if extension == "pb" && !head.starts_with(&[8]) => {
            ("a TensorFlow graph", format!("convert the SavedModel it comes from: {saved_model}"))
        }
        _ if head.trim_ascii_start().starts_with(b"<") => (
            "an XML or HTML page",
            "the server may have sent a web page instead of the model: open the link, or download the raw file".to_owned(),
        ),
        _ if text(head) => ("text", "name the model file itself".to_owned()),
        _ => return None,
    })
}

/// Returns whether a file that begins with these bytes is a tar archive.
fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// Returns the first bytes of a file, of which `head` is the compressed beginning.
fn gunzipped(head: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    // The end of what is read here is not that of the file.
    let _ = flate2::read::GzDecoder::new(head).take(HEAD).read_to_end(&mut plain);
    plain
}

/// Returns how an archive is unpacked: SageMaker's `model.tar.gz` has its files at the top.
fn untar(shown: &str) -> String {
    format!("unpack it and name the folder: `mkdir model && tar -xf '{shown}' -C model`")
}

fn xgboost(shown: &str) -> String {
    format!(
        "python -c \"import xgboost, onnxmltools; m = xgboost.XGBClassifier(); m.load_model('{shown}'); …\" \
         and `onnxmltools.convert_xgboost(m, initial_types=…)`"
    )
}

/// Returns whether a file starts with a length of eight bytes and a JSON object.
fn safetensors(head: &[u8]) -> bool {
    matches!(head, [_, _, _, _, _, 0, 0, 0, b'{', b'"', ..])
}

/// Returns whether a file is text. ONNX files start with a protobuf field and have bytes that no text has.
fn text(head: &[u8]) -> bool {
    let printable = |byte: &u8| *byte >= 0x20 && *byte != 0x7f || matches!(byte, b'\n' | b'\r' | b'\t' | 0xc);
    // The head may end in the middle of a character.
    let utf8 = std::str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true);
    utf8 && head.iter().all(printable)
}
