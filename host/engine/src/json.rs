//! JSON from a module. Its nesting is limited before it is parsed, so neither parsing nor dropping it recurses
//! endlessly.

use serde_json::Value;

/// Parses `text`, and refuses nesting deeper than `depth`. The error is a phrase for use in a message.
pub(crate) fn parse(text: &str, depth: usize) -> Result<Value, String> {
    if nesting(text) > depth {
        return Err(format!("JSON nested deeper than {depth}"));
    }
    serde_json::from_str(text).map_err(|error| format!("text that is not JSON ({error})"))
}

/// The deepest nesting of brackets outside of strings. Correct for valid JSON; the parser refuses other text.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_strings() {
        assert_eq!(nesting(r#"{"a":["[[[\"[[["]}"#), 2);
        assert!(parse(r#"{"a":["[[["]}"#, 2).is_ok());
        assert!(parse(r#"{"a":[[]]}"#, 2).unwrap_err().contains("deeper than 2"));
        assert!(parse(&"[".repeat(100_000), 64).is_err());
        assert!(parse("{", 64).unwrap_err().contains("not JSON"));
    }
}
