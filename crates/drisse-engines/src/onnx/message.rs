//! Turns ONNX Runtime's messages into one line for users.

/// Returns why a model cannot be loaded, in one line that names the node or operator.
pub(super) fn load_failure(raw: &str) -> String {
    let text = one_line(raw);
    // `Load model from PATH failed:REASON`: the caller's message names the path.
    let reason = text.strip_prefix("Load model from ").and_then(|rest| rest.split_once(" failed:"));
    reason.map_or(&*text, |(_, reason)| reason.trim()).to_owned()
}

/// Returns why a run failed, and whether the reason is a lack of memory.
pub(super) fn run_failure(raw: &str) -> (String, bool) {
    let text = one_line(raw);
    let memory = ["bad allocation", "bad_alloc", "Failed to allocate memory", "Available memory of"]
        .iter()
        .any(|sign| text.contains(sign));
    // `Non-zero status code returned while running KIND node. Name:'NAME' Status Message: REASON`
    let node = text.split_once("while running ").and_then(|(_, rest)| {
        let (kind, rest) = rest.split_once(" node. Name:'")?;
        let (name, reason) = rest.split_once("' Status Message: ")?;
        let node = if name.is_empty() { format!("a {kind} node") } else { format!("node `{name}` ({kind})") };
        Some(format!("{node}: {}", reason.trim()))
    });
    (node.unwrap_or(text), memory)
}

/// Replaces line breaks by spaces and removes locations in ONNX Runtime's source code.
pub(super) fn one_line(raw: &str) -> String {
    let mut text = raw.split_whitespace().collect::<Vec<_>>().join(" ");
    while let Some(start) = location_start(&text) {
        let end = start + location_len(&text[start..]);
        text.replace_range(start..end, "");
    }
    text.trim().to_owned()
}

/// Finds the start of the first `FILE.cc:LINE` or `FILE.h:LINE`.
fn location_start(text: &str) -> Option<usize> {
    let mark = [".cc:", ".h:"].iter().filter_map(|mark| text.find(mark)).min()?;
    // A location can follow a full stop without a space: `failed.tensorprotoutils.cc:2201`.
    Some(text[..mark].rfind([' ', '.']).map_or(0, |before| before + 1))
}

/// Returns the length of `PATH:LINE [type] namespace::function(arguments) ` at the start of `text`.
fn location_len(text: &str) -> usize {
    let path = text.find(' ').map_or(text.len(), |space| space + 1);
    // A function's name contains `::`; a return type can precede it.
    let mut name = path;
    for word in text[path..].split(' ').take(3) {
        if word.contains("::") {
            break;
        }
        name += word.len() + 1;
    }
    // Otherwise the function's name is one plain word.
    let word = text[path..].find(' ').map_or(text.len(), |space| path + space + 1);
    let Some(open) = text.get(name..).and_then(|rest| rest.split(' ').next()?.find('(')) else { return word };
    let mut depth = 0_u32;
    for (at, byte) in text.bytes().enumerate().skip(name + open) {
        match byte {
            b'(' => depth += 1,
            b')' if depth <= 1 => {
                let rest = &text[at + 1..];
                let rest = rest.strip_prefix(" const").unwrap_or(rest);
                return text.len() - rest.trim_start().len();
            }
            b')' => depth -= 1,
            _ => {}
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_node_is_named_and_source_locations_are_removed() {
        let raw = "Non-zero status code returned while running Reshape node. Name:'r' Status Message: \
                   /onnxruntime_src/onnxruntime/core/x.h:46 onnxruntime::R::R(const T&, F<a, b>(c), bool) \
                   size != 0 was false. The input\n tensor cannot be reshaped";
        let (text, memory) = run_failure(raw);
        assert_eq!(text, "node `r` (Reshape): size != 0 was false. The input tensor cannot be reshaped");
        assert!(!memory);
    }

    #[test]
    fn a_failed_allocation_is_reported_without_its_source_location() {
        let raw = "Non-zero status code returned while running ConstantOfShape node. Name:'fill' Status Message: \
                   /onnxruntime_src/core/bfc_arena.cc:358 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, \
                   bool) Available memory of 2 is smaller than requested bytes of 4";
        let why = "node `fill` (ConstantOfShape): Available memory of 2 is smaller than requested bytes of 4";
        assert_eq!(run_failure(raw), (why.to_owned(), true));
    }

    #[test]
    fn short_source_locations_are_removed_and_unnamed_nodes_are_described() {
        let raw = "Non-zero status code returned while running Div node. Name:'' Status Message: \
                   element_wise_ops.cc:703 Compute Integer division by zero";
        assert_eq!(run_failure(raw).0, "a Div node: Integer division by zero");
        let raw =
            "Deserialize tensor W failed.tensorprotoutils.cc:2201 GetExtDataFromTensorProto out of bounds";
        assert_eq!(load_failure(raw), "Deserialize tensor W failed.out of bounds");
    }

    #[test]
    fn a_load_failure_does_not_repeat_the_path() {
        let raw = "Load model from /a b/m.onnx failed:Fatal error: Nope(-1) is not a registered function/op";
        assert_eq!(load_failure(raw), "Fatal error: Nope(-1) is not a registered function/op");
    }

    proptest::proptest! {
        #[test]
        fn any_message_becomes_one_line(raw in "(/onnxruntime_src/|x.cc:1|.h:2 |[ \\n():'a-zé]){0,30}") {
            proptest::prop_assert!(!one_line(&raw).contains(['\n', '\r']));
            let _ = (load_failure(&raw), run_failure(&raw));
        }
    }
}
