//! Rust source text divided into code, comments and string literals, and without its tests.

/// What a byte of a source belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Code,
    Comment,
    Text,
}

/// A Rust source with the kind of each byte.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    text: &'a str,
    kinds: Vec<Kind>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let mut kinds = vec![Kind::Code; bytes.len()];
        let mut at = 0;
        while at < bytes.len() {
            let (kind, length) = token(&text[at..], at == 0 || !is_word(bytes[at - 1]));
            kinds[at..at + length].fill(kind);
            at += length;
        }
        Self { text, kinds }
    }

    /// The code: comments and the contents of strings are replaced by spaces.
    pub(crate) fn code(&self) -> String {
        self.only(|kind| kind == Kind::Code)
    }

    /// Comments, documentation and strings: code is replaced by spaces.
    #[cfg(test)]
    pub(crate) fn prose(&self) -> String {
        self.only(|kind| kind != Kind::Code)
    }

    /// The number of lines that contain more than comments, tests left out.
    pub(crate) fn lines(&self) -> usize {
        let kept = self.only(|kind| kind != Kind::Comment);
        without(&kept, &self.tests()).lines().filter(|line| !line.trim().is_empty()).count()
    }

    /// The same with tests.
    #[cfg(test)]
    pub(crate) fn lines_with_tests(&self) -> usize {
        self.only(|kind| kind != Kind::Comment).lines().filter(|line| !line.trim().is_empty()).count()
    }

    /// The code without the modules under `#[cfg(test)]`.
    #[cfg(test)]
    pub(crate) fn code_without_tests(&self) -> String {
        without(&self.code(), &self.tests())
    }

    /// The code of the modules under `#[cfg(test)]` in this file.
    #[cfg(test)]
    pub(crate) fn code_of_tests(&self) -> String {
        let code = self.code();
        self.tests().into_iter().map(|range| &code[range]).collect()
    }

    /// The names of modules in files of their own that are compiled only for tests.
    pub(crate) fn test_files(&self) -> Vec<String> {
        let code = self.code();
        let declared = code.split("#[cfg(test)]").skip(1);
        let names = declared.filter_map(|rest| Some(module(rest)?.strip_suffix(';')?.to_owned()));
        names.collect()
    }

    /// Where the modules under `#[cfg(test)]` with a body are, attribute included.
    fn tests(&self) -> Vec<std::ops::Range<usize>> {
        let code = self.code();
        let starts = code.match_indices("#[cfg(test)]").map(|(start, _)| start);
        let bodies = starts.filter(|&start| {
            module(&code[start + "#[cfg(test)]".len()..]).is_some_and(|name| name.ends_with('{'))
        });
        bodies.map(|start| start..start + body(&code[start..])).collect()
    }

    fn only(&self, keep: impl Fn(Kind) -> bool) -> String {
        let byte = |(byte, &kind): (u8, &Kind)| if byte == b'\n' || keep(kind) { byte } else { b' ' };
        let bytes = self.text.bytes().zip(&self.kinds).map(byte).collect();
        String::from_utf8(bytes).expect("tokens end at the borders of characters")
    }
}

/// Returns the name of the module that is declared after an attribute, with `;` or `{` behind it.
fn module(declared: &str) -> Option<String> {
    let end = declared.find([';', '{'])?;
    let (head, mark) = (declared[..end].trim(), &declared[end..=end]);
    Some(format!("{}{mark}", head.rsplit_once("mod ")?.1.trim()))
}

/// Returns the length of the code up to the brace that closes its first brace.
fn body(code: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn without(text: &str, ranges: &[std::ops::Range<usize>]) -> String {
    let mut text = text.to_owned();
    ranges.iter().rev().for_each(|range| text.replace_range(range.clone(), ""));
    text
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Returns the kind and length of the first token. `begins` says whether a word may begin here.
fn token(rest: &str, begins: bool) -> (Kind, usize) {
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block_comment(rest));
    }
    let prefix =
        if begins { ["br", "cr", "r", "b", "c"].into_iter().find(|p| rest.starts_with(p)) } else { None };
    let prefix = prefix.unwrap_or("");
    let after = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = after.len() - after.trim_start_matches('#').len();
        if let Some(content) = after[hashes..].strip_prefix('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let length = content.find(&end).map_or(content.len(), |at| at + end.len());
            return (Kind::Text, prefix.len() + hashes + 1 + length);
        }
    } else if let Some(content) = after.strip_prefix('"') {
        return (Kind::Text, prefix.len() + 1 + quoted(content, b'"'));
    } else if let Some(content) = after.strip_prefix('\'') {
        // A lifetime has no second quote after one character.
        let mut characters = content.chars();
        if characters.next() == Some('\\') || characters.next() == Some('\'') {
            return (Kind::Text, prefix.len() + 1 + quoted(content, b'\''));
        }
    }
    (Kind::Code, rest.chars().next().map_or(1, char::len_utf8))
}

/// Returns the length of a block comment, which may contain others.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    let bytes = rest.as_bytes();
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" if depth == 1 => return at + 2,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
    }
    rest.len()
}

/// Returns the length of a literal's content and its closing quote.
fn quoted(content: &str, quote: u8) -> usize {
    let mut bytes = content.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            byte if byte == quote => return at + 1,
            _ => {}
        }
    }
    content.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r##"//! A file.
use a::b; // why
/* one /* two */ */
fn f<'a>(c: &'a str) -> char {
    let x = "// no comment \" {";
    let r = br#"raw " } "#;
    if c == x { '\'' } else { '{' }
}

#[cfg(test)]
mod far;

#[cfg(test)]
mod tests {
    fn g() { sleep("{") }
}
fn last() {}
"##;

    #[test]
    fn comments_and_strings_are_separated_from_code() {
        let source = Source::new(TEXT);
        let code = source.code();
        assert!(code.contains("use a::b;") && code.contains("fn f<'a>(c: &'a str)"), "{code}");
        for hidden in ["file", "why", "two", "comment", "raw", "\\'"] {
            assert!(!code.contains(hidden) && source.prose().contains(hidden), "{hidden}: {code}");
        }
        assert_eq!(code.matches('{').count(), code.matches('}').count());
    }

    #[test]
    fn tests_are_found_and_left_out() {
        let source = Source::new(TEXT);
        assert_eq!(source.test_files(), ["far"]);
        assert!(source.code_of_tests().contains("sleep("));
        assert!(!source.code_without_tests().contains("sleep(") && source.code().contains("fn last()"));
        // `use`, five of `f`, the attribute and declaration of `far`, and `last`.
        assert_eq!(source.lines(), 9);
    }
}
