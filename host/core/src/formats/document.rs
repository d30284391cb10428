//! JSON and YAML as the API server decodes them. serde hides two things that matter here: duplicate fields, and plain
//! scalars that have another meaning in YAML 1.1, which the API server uses, than in YAML 1.2
//! (kubernetes: configuration-decoding).

use std::fmt;

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// The deepest nesting. Real documents are far less deep.
const DEEPEST: usize = 32;

/// A value. A map keeps all fields, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Null,
    Bool,
    /// Written in decimal digits.
    Integer(i64),
    /// Any other number.
    Number,
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

/// The only document in these bytes. The error quotes nothing: in a damaged file, key material may be anywhere.
pub(super) fn parse(bytes: &[u8]) -> Result<Node, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    // The API server reads a file as JSON if its first character is `{`, otherwise as YAML.
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text)
            .map_err(|error| format!("not JSON at line {} column {}", error.line(), error.column()))
    } else {
        yaml(text)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Json)
    }
}

struct Json;

impl<'de> Visitor<'de> for Json {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Bool)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(i64::try_from(value).map_or(Node::Number, Node::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Number)
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(field) = fields.next_entry()? {
            map.push(field);
        }
        Ok(Node::Map(map))
    }
}

fn yaml(text: &str) -> Result<Node, String> {
    // Line breaks of YAML 1.1 that are not line breaks in 1.2, and characters that one of the two refuses.
    let other = |c: char| c.is_control() && c != '\n' && c != '\r' || "\u{2028}\u{2029}\u{feff}".contains(c);
    if let Some((before, _)) = text.split_once(other) {
        let line = before.matches('\n').count() + 1;
        return Err(format!("line {line} has a tab or another control character"));
    }
    let mut options = Options::default();
    options.disallow_directives = true;
    options.set_emit_comments(false);
    let mut reader = Reader { text, parser: Parser::new_from_str_with_options(text, options) };
    loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            (Event::StreamEnd, _) => return Err("it is empty".to_owned()),
            (event, span) => {
                let node = reader.node(event, span, 0)?;
                return reader.end().map(|()| node);
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        let not_yaml = |error: &ScanError| format!("not YAML at line {}", error.marker().line());
        self.parser.next_event().ok_or("not YAML: it ends too early")?.map_err(|error| not_yaml(&error))
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, String> {
        let at = |what: &str| format!("line {}: {what}", span.start.line());
        if depth > DEEPEST {
            return Err(at("nested too deeply"));
        }
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(_, anchor, tag)
            | Event::MappingStart(_, anchor, tag) => (*anchor, tag.is_some()),
            _ => return Err(at("anchors and aliases are not supported")),
        };
        if anchor != 0 || tag {
            return Err(at("anchors, aliases and tags are not supported"));
        }
        match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) => Ok(plain(&text)),
            Event::Scalar(_, ScalarStyle::DoubleQuoted, ..) if self.escapes_a_slash(&span) => {
                Err(at("the escape \\/ is not supported"))
            }
            Event::Scalar(text, ..) => Ok(Node::Text(text.into_owned())),
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => return Ok(Node::List(list)),
                        (event, span) => list.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            _ => {
                let mut map = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::MappingEnd) {
                        return Ok(Node::Map(map));
                    }
                    let line = span.start.line();
                    let Node::Text(name) = self.node(event, span, depth + 1)? else {
                        return Err(format!("line {line}: a field's name is not text"));
                    };
                    let (event, span) = self.next()?;
                    map.push((name, self.node(event, span, depth + 1)?));
                }
            }
        }
    }

    /// Whether a scalar contains `\/`, the only escape of YAML 1.2 that YAML 1.1 does not have.
    fn escapes_a_slash(&self, span: &Span) -> bool {
        let range = span.start.byte_offset().zip(span.end.byte_offset());
        let raw = range.and_then(|(start, end)| self.text.get(start..end)).unwrap_or(self.text);
        let mut chars = raw.chars();
        while let Some(c) = chars.next() {
            if c == '\\' && chars.next() == Some('/') {
                return true;
            }
        }
        false
    }

    /// Refuses further documents: the API server would ignore them.
    fn end(&mut self) -> Result<(), String> {
        loop {
            match self.next()? {
                (Event::DocumentEnd, _) => {}
                (Event::StreamEnd, _) => return Ok(()),
                (_, span) => {
                    return Err(format!("line {}: a second YAML document is not allowed", span.start.line()));
                }
            }
        }
    }
}

/// A plain scalar in YAML 1.1, as Go reads it.
fn plain(text: &str) -> Node {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Node::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" | "n" | "N"
        | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Node::Bool,
        _ if is_number(text) => integer(text).map_or(Node::Number, Node::Integer),
        _ => Node::Text(text.to_owned()),
    }
}

/// An integer in the form that all versions of YAML read in the same way: `010` is eight in one of them.
fn integer(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number: &i64| number.to_string() == text)
}

/// Whether Go reads a plain scalar as a number: an integer to any base, or a float, with `_` anywhere in it.
fn is_number(text: &str) -> bool {
    let text = text.replace('_', "").to_ascii_lowercase();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let all = |digits: &str, base: u32| !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
    let based = [("0x", 16), ("0o", 8), ("0b", 2)];
    if based.iter().any(|(prefix, base)| unsigned.strip_prefix(prefix).is_some_and(|rest| all(rest, *base))) {
        return true;
    }
    if unsigned == ".inf" || text == ".nan" {
        return true;
    }
    let (mantissa, exponent) = unsigned.split_once('e').map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    let exponent = exponent.is_none_or(|e| all(e.strip_prefix(['+', '-']).unwrap_or(e), 10));
    exponent && digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn text(of: &str) -> Node {
        Node::Text(of.to_owned())
    }

    #[rstest]
    #[case("a", text("a"))]
    #[case("3s", text("3s"))]
    #[case("1_secrets", text("1_secrets"))]
    #[case("AAAA==", text("AAAA=="))]
    #[case("0xg", text("0xg"))]
    #[case("1e", text("1e"))]
    #[case("2001-01-01", text("2001-01-01"))]
    #[case(".", text("."))]
    #[case("7", Node::Integer(7))]
    #[case("-7", Node::Integer(-7))]
    #[case("\"7\"", text("7"))]
    #[case("'yes'", text("yes"))]
    #[case("010", Node::Number)]
    #[case("+1", Node::Number)]
    #[case("1_000", Node::Number)]
    #[case("0x1F", Node::Number)]
    #[case("0b1", Node::Number)]
    #[case("1e3", Node::Number)]
    #[case(".5", Node::Number)]
    #[case("1.", Node::Number)]
    #[case("-.INF", Node::Number)]
    #[case("99999999999999999999", Node::Number)]
    #[case("~", Node::Null)]
    #[case("off", Node::Bool)]
    fn plain_scalars_are_read_as_in_yaml_1_1(#[case] yaml: &str, #[case] expected: Node) {
        let read = parse(format!("a: {yaml}\n").as_bytes());
        assert_eq!(read, Ok(Node::Map(vec![("a".to_owned(), expected)])));
    }

    #[rstest]
    #[case::alias("a: &x b\nc: *x\n", "line 1: anchors, aliases and tags are not supported")]
    #[case::tag("a: !!str b\n", "line 1: anchors, aliases and tags are not supported")]
    #[case::second_document("a: b\n---\nc: d\n", "line 2: a second YAML document is not allowed")]
    #[case::directive("%YAML 1.1\n---\na: b\n", "not YAML at line 1")]
    #[case::tab("a: b\nc:\td\n", "line 2 has a tab or another control character")]
    #[case::escaped_slash("a: b\nc: \"d\\/e\"\n", "line 2: the escape \\/ is not supported")]
    #[case::number_as_a_name("1: b\n", "line 1: a field's name is not text")]
    #[case::empty("# nothing\n", "it is empty")]
    #[case::flow_mapping("{a: b}\n", "not JSON at line 1 column 2")]
    #[case::trailing("{\"a\": 1} x", "not JSON at line 1 column 10")]
    fn unsupported_syntax_is_refused_with_its_line(#[case] document: &str, #[case] why: &str) {
        assert_eq!(parse(document.as_bytes()), Err(why.to_owned()));
    }

    #[test]
    fn duplicate_fields_are_both_kept() {
        let twice = vec![("a".to_owned(), text("b")), ("a".to_owned(), text("c"))];
        assert_eq!(parse(b"{\"a\": \"b\", \"a\": \"c\"}"), Ok(Node::Map(twice.clone())));
        assert_eq!(parse(b"a: b\na: c\n"), Ok(Node::Map(twice)));
    }
}
