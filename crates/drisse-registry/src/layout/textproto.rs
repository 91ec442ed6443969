//! Protocol buffers' text format, without a schema: fields by name, their values as text.
//!
//! Source: <https://protobuf.dev/reference/protobuf/textformat-spec/>.

use std::borrow::Cow;

/// The deepest nesting of messages.
const MAX_DEPTH: usize = 32;

/// The fields of a message, in their order.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Message<'a>(Vec<(&'a str, Value<'a>)>);

#[derive(PartialEq, Eq, Debug)]
enum Value<'a> {
    /// A number, a word or a string.
    Scalar(Cow<'a, str>),
    Message(Message<'a>),
}

impl<'a> Message<'a> {
    /// Parses a whole text. The error says at which line it is wrong.
    pub(crate) fn parse(text: &'a str) -> Result<Self, String> {
        let mut parser = Parser { rest: text };
        parser.message(None, 0).map_err(|why| {
            let line = 1 + text[..text.len() - parser.rest.len()].matches('\n').count();
            format!("line {line}: {why}")
        })
    }

    /// Returns the names of the fields, in their order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(|(name, _)| *name)
    }

    /// Returns the last scalar of this name.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.texts(name).last()
    }

    /// Returns the scalars of this name: a repeated field.
    pub(crate) fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values(name).filter_map(|value| match value {
            Value::Scalar(text) => Some(&**text),
            Value::Message(_) => None,
        })
    }

    /// Returns the messages of this name.
    pub(crate) fn messages(&self, name: &str) -> impl Iterator<Item = &Message<'a>> {
        self.values(name).filter_map(|value| match value {
            Value::Message(message) => Some(message),
            Value::Scalar(_) => None,
        })
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &Value<'a>> {
        self.0.iter().filter(move |(other, _)| *other == name).map(|(_, value)| value)
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// Reads the fields up to `end`, or to the end of the text.
    fn message(&mut self, end: Option<char>, depth: usize) -> Result<Message<'a>, String> {
        if depth > MAX_DEPTH {
            return Err(format!("messages are nested more than {MAX_DEPTH} deep"));
        }
        let mut fields = Vec::new();
        loop {
            match self.next() {
                None if end.is_none() => return Ok(Message(fields)),
                found if found.is_some() && found == end => {
                    self.skip(1);
                    return Ok(Message(fields));
                }
                None => return Err("the text ends inside a message".to_owned()),
                Some(_) => {}
            }
            let name = self.name()?;
            let has_colon = self.take(':');
            match self.next() {
                Some('[') => {
                    self.skip(1);
                    while !self.take(']') {
                        fields.push((name, self.value(depth)?));
                        if !self.take(',') && self.next() != Some(']') {
                            return Err(self.unexpected("`,` or `]`"));
                        }
                    }
                }
                Some('{' | '<') => fields.push((name, self.value(depth)?)),
                _ if has_colon => fields.push((name, self.value(depth)?)),
                _ => return Err(self.unexpected(&format!("`:` after `{name:.60}`"))),
            }
            if !self.take(',') {
                self.take(';');
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, String> {
        match self.next() {
            Some('{') => {
                self.skip(1);
                self.message(Some('}'), depth + 1).map(Value::Message)
            }
            Some('<') => {
                self.skip(1);
                self.message(Some('>'), depth + 1).map(Value::Message)
            }
            Some('"' | '\'') => self.string().map(|text| Value::Scalar(text.into())),
            _ => self.word("a value").map(|word| Value::Scalar(word.into())),
        }
    }

    /// Reads a name, or an extension's name in brackets.
    fn name(&mut self) -> Result<&'a str, String> {
        if !self.take('[') {
            return self.word("a field's name");
        }
        let end = self.rest.find(']').ok_or("the text ends inside an extension's name")?;
        let name = &self.rest[..end];
        self.skip(end + 1);
        Ok(name)
    }

    fn word(&mut self, what: &str) -> Result<&'a str, String> {
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || "_.+-".contains(letter);
        let end = self.rest.find(|letter| !is_word(letter)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.unexpected(what));
        }
        let word = &self.rest[..end];
        self.skip(end);
        Ok(word)
    }

    /// Reads strings that follow each other as one string.
    fn string(&mut self) -> Result<String, String> {
        let mut bytes = Vec::new();
        while let Some(quote @ ('"' | '\'')) = self.next() {
            self.skip(1);
            loop {
                let end = self.rest.find([quote, '\\', '\n']).unwrap_or(self.rest.len());
                bytes.extend_from_slice(&self.rest.as_bytes()[..end]);
                self.skip(end);
                match self.rest.chars().next() {
                    Some('\\') => {
                        self.skip(1);
                        self.escape(&mut bytes)?;
                    }
                    Some(letter) if letter == quote => {
                        self.skip(1);
                        break;
                    }
                    _ => return Err("a string has no closing quote".to_owned()),
                }
            }
        }
        String::from_utf8(bytes).map_err(|_| "a string is not UTF-8".to_owned())
    }

    /// Reads what follows a backslash.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), String> {
        let (radix, most) = match self.rest.chars().next() {
            Some('0'..='7') => (8, 3),
            Some('x') => {
                self.skip(1);
                (16, 2)
            }
            Some(letter) if letter.is_ascii() => {
                self.skip(1);
                bytes.push(match letter {
                    'a' => 7,
                    'b' => 8,
                    't' => b'\t',
                    'n' => b'\n',
                    'v' => 11,
                    'f' => 12,
                    'r' => b'\r',
                    '\\' | '\'' | '"' | '?' => letter as u8,
                    _ => return Err(format!("`\\{letter}` is not an escape")),
                });
                return Ok(());
            }
            _ => return Err("a string has an escape without a character".to_owned()),
        };
        let count = self.rest.chars().take(most).take_while(|letter| letter.is_digit(radix)).count();
        let number = u8::from_str_radix(&self.rest[..count], radix);
        bytes.push(number.map_err(|_| "an escape is not a byte".to_owned())?);
        self.skip(count);
        Ok(())
    }

    /// Skips spaces and comments, and returns the next character.
    fn next(&mut self) -> Option<char> {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return self.rest.chars().next();
            }
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        }
    }

    /// Skips the next character if it is this one.
    fn take(&mut self, wanted: char) -> bool {
        let found = self.next() == Some(wanted);
        if found {
            self.skip(wanted.len_utf8());
        }
        found
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn unexpected(&mut self, wanted: &str) -> String {
        match self.next() {
            None => format!("the text ends before {wanted}"),
            Some(found) => format!("`{found}` instead of {wanted}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_read_in_all_their_spellings() {
        let text = r#"
            name: "dense\x6eet" '_onnx'  # a comment
            input [ { name: "a" dims: [ 3, 224, -1 ] }, { name: "b", dims: 1; dims: 2 } ]
            version_policy: { specific <versions: [1,3]> }
            [a.b.c] { x: 1 } empty: [] max_batch_size : 8
        "#;
        let message = Message::parse(text).unwrap();
        assert_eq!(message.text("name"), Some("densenet_onnx"));
        let inputs: Vec<Vec<_>> =
            message.messages("input").map(|input| input.texts("dims").collect()).collect();
        assert_eq!(inputs, [vec!["3", "224", "-1"], vec!["1", "2"]]);
        let policy = message.messages("version_policy").next().unwrap().messages("specific").next().unwrap();
        assert_eq!(policy.texts("versions").collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(message.text("max_batch_size"), Some("8"));
        assert_eq!(Message::parse(" # nothing\n").unwrap(), Message::default());
    }

    #[test]
    fn an_error_names_the_line() {
        for (text, why) in [
            ("a: 1\nb 2", "line 2: `2` instead of `:` after `b`"),
            ("a {\n b: 1", "line 2: the text ends inside a message"),
            ("a: [1 2]", "line 1: `2` instead of `,` or `]`"),
            ("a: \"x\ny\"", "line 1: a string has no closing quote"),
            ("a: \"\\q\"", "line 1: `\\q` is not an escape"),
            ("a: \"\\777\"", "line 1: an escape is not a byte"),
            ("a: \"\\xff\"", "line 1: a string is not UTF-8"),
            ("a: }", "line 1: `}` instead of a value"),
            ("}", "line 1: `}` instead of a field's name"),
        ] {
            assert_eq!(Message::parse(text), Err(why.to_owned()), "{text}");
        }
        assert!(Message::parse(&"a {".repeat(100)).unwrap_err().contains("nested"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "([a-z]+ ?[:{<\\[]|[ -~é\n]|\\\\[x0-9a-z]|\"){0,40}") {
            let _ = Message::parse(&text);
        }
    }
}
