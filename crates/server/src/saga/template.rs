//! What a step of a saga sends, with placeholders for what is known only when it runs.
//!
//! ```text
//! {{input}}  {{input.a.b}}  {{steps.NAME.result}}  {{steps.NAME.result.x.0.y}}  {{id}}
//! ```
//!
//! A JSON string that is one placeholder and nothing else becomes the value itself, as it was written:
//! no number loses a digit. Within a longer string a value is inserted as text: the contents of a string,
//! or compact JSON. In the path of a call it is percent-encoded, so that no value adds a segment or a
//! parameter; in a header it stays within its line. What is not there is `null`, and in a text nothing;
//! so is `null` itself. `{{{{` stands for `{{`; braces that close need no escape.
//!
//! Templates are total: there is nothing in them to loop, fail or call. What can be wrong with one is
//! found before the saga begins, except that it may come out too large. The text of an SQL statement is
//! none, so that no value can ever become part of it.
//!
//! What is rendered from valid JSON is valid JSON, without blanks between its parts.

mod compile;
mod find;

use serde_json::value::RawValue;

use self::compile::{Grammar, compile};
use self::find::{Reference, Root};
use crate::limits::TEMPLATE_BYTES_MAX;

/// A value with placeholders, ready to be rendered.
#[derive(Clone, Debug)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Piece {
    /// JSON as it is.
    Literal(String),
    /// A value instead of a string.
    Whole(Reference),
    /// A text within a string.
    Within(Reference, Manner),
}

/// How a value is put into a text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Manner {
    Plain,
    /// As a part of a segment of a path, or of a parameter.
    Percent,
    /// Without what would end a header.
    Line,
}

/// What is known of a saga while it is checked.
pub trait Scope {
    /// Whether the result of this step is known when the template is rendered.
    ///
    /// # Errors
    ///
    /// Why not: there is no such step, or it does not come before this one.
    fn reference(&self, step: &str) -> Result<(), String>;
}

/// What is known of a saga while it runs.
pub trait Values {
    /// What it was begun with.
    fn input(&self) -> Option<&RawValue>;

    /// What a step returned.
    fn result(&self, step: &str) -> Option<&RawValue>;

    /// The transaction.
    fn id(&self) -> &str;
}

/// A placeholder is wrong: nothing has begun.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{why}, at byte {offset} of the text")]
pub struct BadTemplate {
    /// Where the text stands within the value, as a JSON pointer.
    pub pointer: String,
    /// Where the placeholder begins in the text, in bytes of UTF-8 after JSON's escapes are undone.
    pub offset: usize,
    /// What is wrong with it.
    pub why: String,
}

/// The rendered template has more than [`TEMPLATE_BYTES_MAX`] bytes: results are too large to be sent on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("what its placeholders stand for makes it larger than {TEMPLATE_BYTES_MAX} bytes")]
pub struct TooLarge;

impl Template {
    /// Any JSON, with placeholders in its strings.
    ///
    /// # Errors
    ///
    /// [`BadTemplate`], of the first placeholder that is wrong.
    pub fn json(value: &RawValue, scope: &dyn Scope) -> Result<Self, BadTemplate> {
        compile(value.get(), Grammar::Json, scope)
    }

    /// A call of a service: an object with `path`, `method`, `headers`, `body` and `status`.
    ///
    /// # Errors
    ///
    /// As [`Template::json`].
    pub fn request(value: &RawValue, scope: &dyn Scope) -> Result<Self, BadTemplate> {
        compile(value.get(), Grammar::Request, scope)
    }

    /// A list of SQL statements. Placeholders belong in `params`.
    ///
    /// # Errors
    ///
    /// As [`Template::json`]; also if there seems to be a placeholder in `sql`.
    pub fn statements(value: &RawValue, scope: &dyn Scope) -> Result<Self, BadTemplate> {
        compile(value.get(), Grammar::Statements, scope)
    }

    /// The JSON that it stands for.
    ///
    /// # Errors
    ///
    /// [`TooLarge`].
    pub fn render(&self, values: &dyn Values) -> Result<String, TooLarge> {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(json) => out.push_str(json),
                Piece::Whole(reference) => whole(reference, values, &mut out),
                Piece::Within(reference, manner) => within(reference, *manner, values, &mut out),
            }
            if out.len() > TEMPLATE_BYTES_MAX {
                return Err(TooLarge);
            }
        }
        Ok(out)
    }

    /// The same with `null` for each value and `x` for each text, to see in advance whether the rest of it
    /// makes sense to the resource.
    pub fn specimen(&self) -> String {
        let part = |piece: &Piece| match piece {
            Piece::Literal(json) => json.clone(),
            Piece::Whole(_) => "null".to_owned(),
            Piece::Within(..) => "x".to_owned(),
        };
        self.pieces.iter().map(part).collect()
    }
}

fn whole(reference: &Reference, values: &dyn Values, out: &mut String) {
    match reference.root {
        Root::Id => {
            out.push('"');
            escaped(values.id(), out);
            out.push('"');
        }
        Root::Input | Root::Result(_) => {
            out.push_str(reference.find(values).map_or("null", RawValue::get));
        }
    }
}

fn within(reference: &Reference, manner: Manner, values: &dyn Values, out: &mut String) {
    let found = match reference.root {
        Root::Id => return inserted(values.id(), manner, out),
        Root::Input | Root::Result(_) => reference.find(values).map_or("null", RawValue::get),
    };
    match (found.as_bytes().first(), manner) {
        (Some(b'n'), _) => {}
        // Between its quotes a string is escaped as it has to be.
        (Some(b'"'), Manner::Plain) => out.push_str(&found[1..found.len() - 1]),
        (Some(b'"'), Manner::Percent | Manner::Line) => {
            // Halves of surrogate pairs are no text, and nothing to put into a call.
            let text: String = serde_json::from_str(found).unwrap_or_default();
            inserted(&text, manner, out);
        }
        (Some(_) | None, _) => inserted(&compact(found), manner, out),
    }
}

fn inserted(text: &str, manner: Manner, out: &mut String) {
    match manner {
        Manner::Plain => escaped(text, out),
        Manner::Percent => percent_encoded(text, out),
        Manner::Line => {
            let line = |c: char| if c.is_control() { ' ' } else { c };
            escaped(&text.chars().map(line).collect::<String>(), out);
        }
    }
}

/// The contents of a JSON string.
fn escaped(text: &str, out: &mut String) {
    let quoted = serde_json::to_string(text).expect("a text is always JSON");
    out.push_str(&quoted[1..quoted.len() - 1]);
}

/// RFC 3986: all but unreserved characters.
fn percent_encoded(text: &str, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let digit = |four_bits: u8| char::from(DIGITS[usize::from(four_bits)]);
            out.extend(['%', digit(byte >> 4), digit(byte & 0xF)]);
        }
    }
}

/// JSON without blanks between its parts.
fn compact(json: &str) -> String {
    let (mut in_string, mut is_escaped) = (false, false);
    let kept = |c: &char| {
        let blank = !in_string && matches!(c, ' ' | '\t' | '\n' | '\r');
        match c {
            '"' if !is_escaped => in_string = !in_string,
            _ => {}
        }
        is_escaped = *c == '\\' && !is_escaped;
        !blank
    };
    json.chars().filter(kept).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Knows the steps `reserve` and `charge`; `notify` comes later.
    struct Known;

    impl Scope for Known {
        fn reference(&self, step: &str) -> Result<(), String> {
            match step {
                "reserve" | "charge" => Ok(()),
                "notify" => Err("step notify does not come before this one".to_owned()),
                _ => Err(format!("there is no step {step:?}")),
            }
        }
    }

    struct Run {
        input: Box<RawValue>,
        charge: Box<RawValue>,
    }

    impl Values for Run {
        fn input(&self) -> Option<&RawValue> {
            Some(&self.input)
        }

        fn result(&self, step: &str) -> Option<&RawValue> {
            (step == "charge").then_some(&*self.charge)
        }

        fn id(&self) -> &str {
            "01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10"
        }
    }

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("JSON")
    }

    fn run() -> Run {
        let input = r#"{"seat": "B2-31", "price": 123456789012345678901234567890.10, "who": {"name":
            "Zo\u00eb \"Z\"\nO'Hara / 50%", "tags": [ 1, "a b", null ]}, "none": null, "dots": ".."}"#;
        Run { input: raw(input), charge: raw(r#"{"id":"ch_1","lines":[{"n":1e999}]}"#) }
    }

    fn json(template: &str) -> String {
        let template = Template::json(&raw(template), &Known).expect("a good template");
        template.render(&run()).expect("small")
    }

    fn bad(template: &str) -> (String, usize, String) {
        let bad = Template::json(&raw(template), &Known).expect_err("a bad template");
        (bad.pointer, bad.offset, bad.why)
    }

    #[test]
    fn a_string_that_is_one_placeholder_becomes_the_value_as_it_was_written() {
        assert_eq!(json(r#""{{input.price}}""#), "123456789012345678901234567890.10");
        assert_eq!(json(r#"[ "{{ input.seat }}", true ]"#), r#"["B2-31",true]"#);
        assert_eq!(json(r#"{"n": "{{steps.charge.result.lines.0.n}}"}"#), r#"{"n":1e999}"#);
        assert_eq!(json(r#""{{steps.charge.result}}""#), run().charge.get());
        assert_eq!(json(r#""{{input}}""#), run().input.get());
        assert_eq!(json(r#""{{id}}""#), r#""01939f6e-7a30-7c41-9b1d-3f2a5c7e9d10""#);
        assert_eq!(json(r#""\u007b{input.seat}}""#), r#""B2-31""#, "braces may be escaped");
    }

    #[test]
    fn what_is_not_there_is_null_and_nothing_in_a_text() {
        for nowhere in ["input.no", "input.seat.x", "input.none", "steps.reserve.result.id"] {
            assert_eq!(json(&format!(r#"["{{{{{nowhere}}}}}"]"#)), "[null]", "{nowhere}");
            assert_eq!(json(&format!(r#"["<{{{{{nowhere}}}}}>"]"#)), r#"["<>"]"#, "{nowhere}");
        }
    }

    #[test]
    fn within_a_text_values_are_texts() {
        assert_eq!(json(r#""seat {{input.seat}}, {{id}}""#).len(), 50);
        assert_eq!(json(r#""{{input.seat}}{{input.seat}}""#), r#""B2-31B2-31""#);
        assert_eq!(json(r#""for {{input.who.name}}""#), r#""for Zo\u00eb \"Z\"\nO'Hara / 50%""#);
        assert_eq!(json(r#""tags {{input.who.tags}}""#), r#""tags [1,\"a b\",null]""#);
        assert_eq!(json(r#""{{steps.charge.result}} \u0041\n""#).len(), 49);
    }

    #[test]
    fn doubled_braces_stand_for_braces() {
        assert_eq!(json(r#""{{{{input}} }} { }""#), r#""{{input}} }} { }""#);
        assert_eq!(json(r#""{{{{{{input.seat}}""#), r#""{{B2-31""#);
    }

    #[test]
    fn a_path_is_encoded_and_a_header_stays_in_its_line() {
        let request =
            raw(r#"{"path":"/seats/{{input.who.name}}/{{input.seat}}?t={{input.who.tags}}",
                "method":"PUT","headers":{"x-who":"{{input.who.name}}"},
                "body":{"seat":"{{input.seat}}"},"status":"/seats?id={{id}}"}"#);
        let template = Template::request(&request, &Known).expect("a good template");
        let rendered: Value =
            serde_json::from_str(&template.render(&run()).expect("small")).expect("JSON");
        let path = "/seats/Zo%C3%AB%20%22Z%22%0AO%27Hara%20%2F%2050%25/B2-31?t=%5B1%2C%22a%20b%22%2Cnull%5D";
        assert_eq!(rendered["path"], path);
        assert_eq!(rendered["headers"]["x-who"], "Zoë \"Z\" O'Hara / 50%");
        assert_eq!(rendered["body"]["seat"], "B2-31");
        assert_eq!(rendered["status"], format!("/seats?id={}", run().id()));
        let specimen = r#"{"path":"/seats/x/x?t=x","method":"PUT","headers":{"x-who":"x"},"body":{"seat":null},"status":"/seats?id=x"}"#;
        assert_eq!(template.specimen(), specimen);
    }

    #[test]
    fn no_value_becomes_part_of_sql() {
        let statements = |sql: &str| {
            let params = r#"["{{input.seat}}","for {{input.who.name}}"]"#;
            let list = format!(r#"[{{"sql":"{sql}","params":{params},"expect_rows":1}}]"#);
            Template::statements(&raw(&list), &Known)
        };
        let array = statements("SELECT '{{1,2},{3,4}}'::int[], $1, $2").expect("braces of arrays");
        let rendered = array.render(&run()).expect("small");
        assert!(rendered.starts_with(r#"[{"sql":"SELECT '{{1,2},{3,4}}'::int[], $1, $2""#));
        assert!(rendered.contains(r#""params":["B2-31","for Zo\u00eb"#), "{rendered}");
        let bad = statements("SELECT {{ input.seat }}").expect_err("a value in sql");
        assert_eq!((&*bad.pointer, bad.offset), ("/0/sql", 7));
        let whole = Template::statements(&raw(r#""{{input.statements}}""#), &Known);
        assert!(whole.is_err() && Template::request(&raw(r#""{{input}}""#), &Known).is_err());
        let method = Template::request(&raw(r#"{"method":"{{input.m}}"}"#), &Known);
        assert_eq!(method.expect_err("a value as a method").pointer, "/method");
    }

    #[test]
    fn a_bad_placeholder_is_named_with_its_place() {
        let at = |pointer: &str, offset| (pointer.to_owned(), offset);
        for (template, place, named) in [
            (r#"{"a":["x","é {{input"]}"#, at("/a/1", 3), "not closed"),
            (r#"{"a/b~":"{{inputs.a}}"}"#, at("/a~1b~0", 0), "begins with none of"),
            (r#""{{}}""#, at("", 0), "begins with none of"),
            (r#""{{{input}}}""#, at("", 0), "begins with none of"),
            (r#""a {{input..b}}""#, at("", 2), "empty"),
            (r#""{{input.}}""#, at("", 0), "empty"),
            (r#""{{steps.hotel.result}}""#, at("", 0), "no step \"hotel\""),
            (r#""{{steps.notify.result.id}}""#, at("", 0), "not come before"),
            (r#""{{steps.charge.status}}""#, at("", 0), "only its result"),
            (r#""{{steps}}""#, at("", 0), "followed by"),
            (r#""{{id.x}}""#, at("", 0), "no parts"),
            (r#"{"{{input.a}}":1}"#, at("/{{input.a}}", 0), "always the same"),
            (r#"["\ud800{{input}}"]"#, at("/0", 0), "surrogate"),
        ] {
            let (pointer, offset, why) = bad(template);
            assert_eq!((pointer, offset), place, "{template}");
            assert!(why.contains(named), "{template}: {why}");
        }
        let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
        assert!(bad(&deep).2.contains("64 levels"));
        let many = format!(r#""{}""#, "{{id}} ".repeat(257));
        assert!(bad(&many).2.contains("256 placeholders"));
    }

    #[test]
    fn what_comes_out_too_large_is_refused() {
        let template = format!(r#"["{}"]"#, "{{steps.charge.result}} ".repeat(5));
        let template = Template::json(&raw(&template), &Known).expect("a good template");
        let charge = |len: usize| raw(&format!("\"{}\"", "x".repeat(len)));
        assert!(template.render(&Run { charge: charge(50_000), ..run() }).is_ok());
        let large = Run { charge: charge(60_000), ..run() };
        assert_eq!(template.render(&large), Err(TooLarge));
    }

    /// Bits in an order that is always the same.
    struct Bits(u64);

    impl Bits {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % end as u64) as usize
        }

        /// Odd JSON of at most this depth, with blanks where they may be.
        fn json(&mut self, depth: usize) -> String {
            const SCALARS: [&str; 12] = [
                "null",
                " true",
                "-0",
                "1e-7",
                "123456789012345678901234567890123",
                r#""""#,
                r#""\"{{}}\"""#,
                r#""\\""#,
                r#""\ud83d\ude00 \u0000\n""#,
                r#""{{{{ \" }}}}""#,
                "\"é\u{7f}\u{2028}\"",
                r#""\/?&=#%..""#,
            ];
            let kinds = if depth == 0 { 1 } else { 3 };
            let some = self.below(4);
            match self.below(kinds) {
                0 => SCALARS[self.below(SCALARS.len())].to_owned(),
                1 => {
                    let parts: Vec<String> = (0..some).map(|_| self.json(depth - 1)).collect();
                    format!("[ {}\n]", parts.join(" , "))
                }
                _ => {
                    let keys = ["a", "b", r"\u0061", r#"\""#];
                    let part = |key: &&str| format!("\"{key}\" :{}", self.json(depth - 1));
                    let parts: Vec<String> = keys[..some].iter().map(part).collect();
                    format!("{{{}}}", parts.join("\t,"))
                }
            }
        }
    }

    #[test]
    fn what_is_rendered_is_valid_json_whatever_the_values_are() {
        let mut bits = Bits(0x9E37_79B9_7F4A_7C15);
        let mut rendered_count = 0;
        for _ in 0..20_000 {
            let references = ["input", "input.a", "input.a.0", "steps.charge.result.b", "id"];
            let placeholder = |bits: &mut Bits| {
                let before = ["", "", "\\\"", "é\\n "][bits.below(4)];
                format!("\"{before}{{{{{}}}}}\"", references[bits.below(references.len())])
            };
            let (first, second) = (placeholder(&mut bits), placeholder(&mut bits));
            let odd = bits.json(3);
            let template = raw(&format!(
                r#"{{"path":{first},"headers":{{"h":{second}}},"body":[{first},{odd},{second}]}}"#
            ));
            let run = Run { input: raw(&bits.json(3)), charge: raw(&bits.json(3)) };
            for template in
                [Template::json(&template, &Known), Template::request(&template, &Known)]
            {
                // Braces of the odd values may be a bad template.
                let Ok(template) = template else { continue };
                rendered_count += 1;
                let rendered = template.render(&run).expect("small");
                assert!(serde_json::from_str::<Value>(&rendered).is_ok(), "{rendered}");
                assert!(serde_json::from_str::<Value>(&template.specimen()).is_ok());
            }
        }
        assert!(rendered_count > 10_000, "{rendered_count}");
    }
}
