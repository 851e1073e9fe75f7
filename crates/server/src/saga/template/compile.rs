//! Takes a value apart into what stays and what is put in.
//!
//! The text is valid JSON already, so it is only followed, never checked: what does not hold a
//! placeholder is kept byte for byte, but for blanks between the parts.

use super::find::Reference;
use super::{BadTemplate, Manner, Piece, Scope, Template, escaped};
use crate::limits::{BODY_DEPTH_MAX, TEMPLATE_PLACEHOLDERS_MAX};

/// What strings at a place may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Grammar {
    /// Any JSON.
    Json,
    /// The object that describes a call.
    Request,
    /// The headers of a call.
    Headers,
    /// A text that values are put into only in this manner.
    Text(Manner),
    /// A list of statements.
    Statements,
    /// One of them.
    Statement,
    /// Never a template; why not.
    Fixed(&'static str),
}

/// What a string with placeholders may become.
enum Strings {
    AnyValue,
    Text(Manner),
    Fixed(&'static str),
}

const IN_FORM: &str = "what a step consists of is always the same; only values in it may vary";
const IN_METHOD: &str = "a method is always the same";
const IN_SQL: &str =
    "sql is sent as it is: put a placeholder of the database there, and this one in params";

impl Grammar {
    fn member(self, key: &str) -> Self {
        match (self, key) {
            (Self::Request, "path" | "status") => Self::Text(Manner::Percent),
            (Self::Request, "method") => Self::Fixed(IN_METHOD),
            (Self::Request, "headers") => Self::Headers,
            (Self::Headers, _) => Self::Text(Manner::Line),
            (Self::Statement, "sql") => Self::Fixed(IN_SQL),
            (Self::Json | Self::Request | Self::Statements | Self::Statement, _) => Self::Json,
            (Self::Text(_) | Self::Fixed(_), _) => self,
        }
    }

    fn element(self) -> Self {
        match self {
            Self::Statements => Self::Statement,
            Self::Json | Self::Request | Self::Statement => Self::Json,
            Self::Headers | Self::Text(_) | Self::Fixed(_) => self,
        }
    }

    fn string(self) -> Strings {
        match self {
            Self::Json => Strings::AnyValue,
            Self::Text(manner) => Strings::Text(manner),
            Self::Fixed(why) => Strings::Fixed(why),
            Self::Request | Self::Headers | Self::Statements | Self::Statement => {
                Strings::Fixed(IN_FORM)
            }
        }
    }
}

pub(super) fn compile(
    json: &str,
    grammar: Grammar,
    scope: &dyn Scope,
) -> Result<Template, BadTemplate> {
    let mut compiler = Compiler { json, at: 0, scope, path: Vec::new(), made: Made::default() };
    compiler.value(grammar)?;
    Ok(compiler.made.finished())
}

struct Compiler<'a> {
    json: &'a str,
    at: usize,
    scope: &'a dyn Scope,
    /// Where `at` is: keys and positions.
    path: Vec<String>,
    made: Made,
}

#[derive(Default)]
struct Made {
    pieces: Vec<Piece>,
    literal: String,
    placeholders: usize,
}

impl Made {
    fn put(&mut self, piece: Piece) {
        if !self.literal.is_empty() {
            self.pieces.push(Piece::Literal(std::mem::take(&mut self.literal)));
        }
        self.pieces.push(piece);
        self.placeholders += 1;
    }

    fn finished(mut self) -> Template {
        if !self.literal.is_empty() {
            self.pieces.push(Piece::Literal(self.literal));
        }
        Template { pieces: self.pieces }
    }
}

impl<'a> Compiler<'a> {
    fn value(&mut self, grammar: Grammar) -> Result<(), BadTemplate> {
        self.skip_blanks();
        match self.byte() {
            b'{' => self.nested(b'}', |it, _| it.member(grammar)),
            b'[' => self.nested(b']', |it, position| {
                it.path.push(position.to_string());
                it.value(grammar.element())
            }),
            b'"' => {
                let string = self.string();
                self.text(string, grammar)
            }
            _ => {
                let ends =
                    |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
                let rest = &self.json[self.at..];
                let end = rest.as_bytes().iter().position(ends).unwrap_or(rest.len());
                self.at += end;
                self.made.literal.push_str(&rest[..end]);
                Ok(())
            }
        }
    }

    /// The parts of an object or a list, up to the byte that closes it.
    fn nested(
        &mut self,
        close: u8,
        mut part: impl FnMut(&mut Self, usize) -> Result<(), BadTemplate>,
    ) -> Result<(), BadTemplate> {
        if self.path.len() >= BODY_DEPTH_MAX {
            return Err(self.bad(0, format!("it is nested deeper than {BODY_DEPTH_MAX} levels")));
        }
        self.pass();
        for position in 0.. {
            self.skip_blanks();
            if self.byte() == close {
                break;
            }
            if position > 0 {
                self.pass();
            }
            let depth = self.path.len();
            part(self, position)?;
            self.path.truncate(depth);
        }
        self.pass();
        Ok(())
    }

    fn member(&mut self, grammar: Grammar) -> Result<(), BadTemplate> {
        self.skip_blanks();
        let written = self.string();
        let key = self.decoded(written)?;
        self.path.push(key.clone());
        if let Some(offset) = key.find("{{") {
            return Err(self.bad(offset, "the name of a field is always the same".to_owned()));
        }
        self.made.literal.push_str(written);
        self.skip_blanks();
        self.pass();
        self.value(grammar.member(&key))
    }

    fn text(&mut self, written: &str, grammar: Grammar) -> Result<(), BadTemplate> {
        // Braces may be written as escapes.
        if !written.contains("{{") && !written.contains('\\') {
            self.made.literal.push_str(written);
            return Ok(());
        }
        let text = self.decoded(written)?;
        let manner = match grammar.string() {
            Strings::Fixed(why) => {
                if let Some(offset) = placeholder_like(&text) {
                    return Err(self.bad(offset, why.to_owned()));
                }
                self.made.literal.push_str(written);
                return Ok(());
            }
            Strings::AnyValue => {
                if let Some(reference) = self.only_placeholder(&text)? {
                    self.made.put(Piece::Whole(reference));
                    return Ok(());
                }
                Manner::Plain
            }
            Strings::Text(manner) => manner,
        };
        self.made.literal.push('"');
        self.parts(&text, manner)?;
        self.made.literal.push('"');
        Ok(())
    }

    /// The reference of a text that is one placeholder and nothing else.
    fn only_placeholder(&self, text: &str) -> Result<Option<Reference>, BadTemplate> {
        let Some(inner) = text.strip_prefix("{{").filter(|rest| !rest.starts_with("{{")) else {
            return Ok(None);
        };
        match inner.split_once("}}") {
            Some((inner, "")) => self.reference(inner, 0).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    fn parts(&mut self, text: &str, manner: Manner) -> Result<(), BadTemplate> {
        let mut at = 0;
        while let Some(open) = text[at..].find("{{").map(|found| at + found) {
            escaped(&text[at..open], &mut self.made.literal);
            let inner = &text[open + 2..];
            if let Some(rest) = inner.strip_prefix("{{") {
                self.made.literal.push_str("{{");
                at = text.len() - rest.len();
                continue;
            }
            let Some((inner, rest)) = inner.split_once("}}") else {
                let why = "a placeholder is not closed; write {{{{ for {{";
                return Err(self.bad(open, why.to_owned()));
            };
            let reference = self.reference(inner, open)?;
            self.made.put(Piece::Within(reference, manner));
            at = text.len() - rest.len();
        }
        escaped(&text[at..], &mut self.made.literal);
        Ok(())
    }

    fn reference(&self, inner: &str, offset: usize) -> Result<Reference, BadTemplate> {
        if self.made.placeholders >= TEMPLATE_PLACEHOLDERS_MAX {
            let why = format!("more than {TEMPLATE_PLACEHOLDERS_MAX} placeholders");
            return Err(self.bad(offset, why));
        }
        Reference::read(inner.trim(), self.scope).map_err(|why| self.bad(offset, why))
    }

    fn bad(&self, offset: usize, why: String) -> BadTemplate {
        // RFC 6901.
        let part = |part: &String| format!("/{}", part.replace('~', "~0").replace('/', "~1"));
        BadTemplate { pointer: self.path.iter().map(part).collect(), offset, why }
    }

    fn decoded(&self, string: &str) -> Result<String, BadTemplate> {
        let text = serde_json::from_str(string);
        text.map_err(|_| self.bad(0, "half of a surrogate pair is no character".to_owned()))
    }

    /// A string with its quotes.
    fn string(&mut self) -> &'a str {
        let rest = &self.json[self.at..];
        let mut is_escaped = false;
        let is_end = |&(_, &byte): &(usize, &u8)| {
            let ends = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            ends
        };
        let end = rest.as_bytes().iter().enumerate().skip(1).find(is_end);
        let end = end.map_or(rest.len(), |(at, _)| at + 1);
        self.at += end;
        &rest[..end]
    }

    /// Keeps one byte of punctuation.
    fn pass(&mut self) {
        self.made.literal.push(char::from(self.byte()));
        self.at += 1;
    }

    fn byte(&self) -> u8 {
        *self.json.as_bytes().get(self.at).expect("valid JSON ends with its outermost value")
    }

    fn skip_blanks(&mut self) {
        while matches!(self.byte(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }
}

/// Where braces stand that somebody may take for a placeholder; databases have others.
fn placeholder_like(text: &str) -> Option<usize> {
    let begins = |(_, rest): &(usize, &str)| {
        let inner = rest.trim_start();
        ["input", "steps", "id"].iter().any(|root| {
            inner.strip_prefix(root).is_some_and(|it| it.trim_start().starts_with(['.', '}']))
        })
    };
    let opens = text.match_indices("{{").map(|(at, _)| (at, &text[at + 2..]));
    opens.into_iter().find(begins).map(|(at, _)| at)
}
