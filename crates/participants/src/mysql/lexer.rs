//! What of a statement has to be seen before it is sent: its first word, its placeholders, its end.
//!
//! Values are put into the text as literals, because that alone keeps every digit of a number: the
//! protocol's own parameters know no decimal, and a number that is passed as a text is calculated
//! with as a floating-point number. And a branch is one text of many statements: each must end where
//! it seems to. So whatever could be read differently by the server is refused: a statement behind a
//! semicolon, a comment that is carried out, a quote that is not closed.

use std::fmt::Write;

use crate::statement::Param;

/// A statement, taken apart.
pub(super) struct Lexed<'a> {
    /// What stands between the placeholders: one more than there are of them.
    pieces: Vec<&'a str>,
    /// The first word, in capitals.
    pub(super) keyword: String,
}

/// What begins at some place of a statement.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Token {
    /// Space or a comment.
    Blank,
    Place,
    End,
    Other,
}

/// # Errors
///
/// What is wrong with the statement.
pub(super) fn lex(sql: &str) -> Result<Lexed<'_>, String> {
    let bytes = sql.as_bytes();
    let (mut pieces, mut from, mut at) = (Vec::new(), 0, 0);
    let (mut word, mut end) = (None, None);
    while at < bytes.len() {
        let (token, next) = token(bytes, at)?;
        match token {
            Token::Blank => {}
            Token::End => end = end.or(Some(at)),
            Token::Place | Token::Other if end.is_some() => {
                return Err("it is more than one statement: each is an entry of the list".into());
            }
            Token::Place => {
                pieces.push(&sql[from..at]);
                from = next;
            }
            Token::Other if bytes[at] == b'(' => {}
            Token::Other => word = word.or(Some(at)),
        }
        at = next;
    }
    pieces.push(&sql[from..end.unwrap_or(bytes.len())]);
    let word = word.map(|at| &sql[at..at + word_len(&bytes[at..])]).unwrap_or_default();
    Ok(Lexed { pieces, keyword: word.to_ascii_uppercase() })
}

/// What begins at this byte, and where it ends.
fn token(bytes: &[u8], at: usize) -> Result<(Token, usize), String> {
    Ok(match bytes[at..] {
        [quote @ (b'\'' | b'"' | b'`'), ..] => (Token::Other, past_quote(bytes, at, quote)?),
        [b'#', ..] | [b'-', b'-'] => (Token::Blank, past_line(bytes, at)),
        [b'-', b'-', space, ..] if space <= b' ' => (Token::Blank, past_line(bytes, at)),
        [b'/', b'*', b'!', ..] | [b'/', b'*', b'M', b'!', ..] => {
            return Err("a comment that is carried out is not for a branch".to_owned());
        }
        [b'/', b'*', ..] => (Token::Blank, past_block(bytes, at)?),
        [b'?', ..] => (Token::Place, at + 1),
        [b';', ..] => (Token::End, at + 1),
        [b'\0', ..] => return Err("it has a zero byte in it".to_owned()),
        [space, ..] if space.is_ascii_whitespace() => (Token::Blank, at + 1),
        [..] => (Token::Other, at + word_len(&bytes[at..]).max(1)),
    })
}

fn word_len(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|it| it.is_ascii_alphabetic()).count()
}

fn past_quote(bytes: &[u8], at: usize, quote: u8) -> Result<usize, String> {
    let mut next = at + 1;
    while next < bytes.len() {
        match bytes[next] {
            b'\\' if quote != b'`' => next += 2,
            // A doubled quote closes one text and begins the next, which ends at the same place.
            byte if byte == quote => return Ok(next + 1),
            _ => next += 1,
        }
    }
    Err("it has a quote that is not closed".to_owned())
}

fn past_line(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&it| it == b'\n').map_or(bytes.len(), |len| at + len + 1)
}

fn past_block(bytes: &[u8], at: usize) -> Result<usize, String> {
    let end = bytes[at + 2..].windows(2).position(|it| it == b"*/");
    end.map(|len| at + 2 + len + 2).ok_or_else(|| "it has a comment that is not closed".to_owned())
}

impl Lexed<'_> {
    /// Whether it is a kind of statement that only reads, unless it calls something that writes.
    pub(super) fn reads(&self) -> bool {
        const READERS: [&str; 8] =
            ["SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN", "DESCRIBE", "DESC"];
        READERS.contains(&&*self.keyword) && !self.has_locking_words()
    }

    /// Whether it may be in a branch at all.
    pub(super) fn is_work(&self) -> bool {
        const WORK: [&str; 6] = ["INSERT", "REPLACE", "UPDATE", "DELETE", "CALL", "DO"];
        WORK.contains(&&*self.keyword) || self.reads() || self.has_locking_words()
    }

    /// Whether it may answer with rows.
    pub(super) fn may_return_rows(&self) -> bool {
        const SILENT: [&str; 5] = ["INSERT", "REPLACE", "UPDATE", "DELETE", "DO"];
        !SILENT.contains(&&*self.keyword) || self.words().any(|it| it == "RETURNING")
    }

    /// Everything in it that looks like a word, in capitals; in quotes and comments too.
    pub(super) fn words(&self) -> impl Iterator<Item = String> {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
        let words = self.pieces.iter().flat_map(move |it| it.split(move |c| !is_part(c)));
        words.filter(|it| !it.is_empty()).map(str::to_uppercase)
    }

    fn has_locking_words(&self) -> bool {
        let words: Vec<String> = self.words().collect();
        let pair = |it: &[String]| {
            matches!((&*it[0], &*it[1]), ("FOR", "UPDATE" | "SHARE") | ("LOCK", "IN"))
        };
        matches!(&*self.keyword, "SELECT" | "WITH" | "TABLE") && words.windows(2).any(pair)
    }

    /// The text with its values.
    ///
    /// # Errors
    ///
    /// That there are more or fewer values than placeholders.
    pub(super) fn with(&self, params: &[Param]) -> Result<String, String> {
        let places = self.pieces.len() - 1;
        if places != params.len() {
            return Err(format!("it has {places} placeholders and {} values", params.len()));
        }
        let mut text = self.pieces[0].to_owned();
        for (param, piece) in params.iter().zip(&self.pieces[1..]) {
            literal(param, &mut text);
            text.push_str(piece);
        }
        Ok(text)
    }
}

fn literal(param: &Param, text: &mut String) {
    match param {
        Param::Null => text.push_str("NULL"),
        Param::Bool(true) => text.push_str("TRUE"),
        Param::Bool(false) => text.push_str("FALSE"),
        // Two minus signs in a row could begin a comment.
        Param::Number(number) if number.starts_with('-') => {
            write!(text, "({number})").expect("a text takes all");
        }
        Param::Number(number) => text.push_str(number),
        Param::Text(value) | Param::List(value) | Param::Object(value) => quoted(value, text),
    }
}

/// A text as a literal, where backslashes escape and the character set is UTF-8.
pub(super) fn quoted(value: &str, text: &mut String) {
    text.push('\'');
    for c in value.chars() {
        match c {
            '\'' | '\\' => text.extend(['\\', c]),
            '\0' => text.push_str("\\0"),
            _ => text.push(c),
        }
    }
    text.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(sql: &str, params: &[Param]) -> String {
        lex(sql).expect("a good statement").with(params).expect("as many values as places")
    }

    #[test]
    fn placeholders_are_found_where_the_server_would_find_them() {
        let one = [Param::Number("1".to_owned())];
        for (sql, text) in [
            ("a = ?", "a = 1"),
            ("'?' ?", "'?' 1"),
            (r"'\'?' ?", r"'\'?' 1"),
            ("'''?' ?", "'''?' 1"),
            ("`?\\` ?", "`?\\` 1"),
            ("-- ?\n?", "-- ?\n1"),
            ("--?", "--1"),
            ("# ?\n?", "# ?\n1"),
            ("/* ? */ ?", "/* ? */ 1"),
            ("? ; -- the end", "1 "),
        ] {
            assert_eq!(filled(sql, &one), text, "{sql}");
        }
        assert!(lex("? ?").expect("good").with(&one).is_err());
    }

    #[test]
    fn values_are_literals_that_mean_exactly_what_was_given() {
        let text = |text: &str| Param::Text(text.to_owned());
        for (param, literal) in [
            (Param::Null, "NULL"),
            (Param::Bool(true), "TRUE"),
            (Param::Number("-0.10".to_owned()), "(-0.10)"),
            (Param::Number("12345678901234567890.1".to_owned()), "12345678901234567890.1"),
            (text("it's"), r"'it\'s'"),
            (text("\\'; DROP TABLE x; --\0"), r"'\\\'; DROP TABLE x; --\0'"),
            (Param::List(r#"[1,"a"]"#.to_owned()), r#"'[1,"a"]'"#),
        ] {
            assert_eq!(filled("?", &[param]), literal);
        }
    }

    #[test]
    fn what_could_end_elsewhere_than_it_seems_is_refused() {
        for sql in [
            "UPDATE x; COMMIT",
            "UPDATE x;/* */COMMIT",
            "UPDATE x; ?",
            "UPDATE x;;'a'",
            "UPDATE x /*! , y */",
            "UPDATE x /*M!100000 , y */",
            "UPDATE 'x",
            "UPDATE x /* ",
            "UPDATE \0x",
        ] {
            assert!(lex(sql).is_err(), "{sql}");
        }
        for sql in ["UPDATE x;", "UPDATE x ; ; -- more", "UPDATE x;/* b */ # c", "UPDATE x --"] {
            assert!(lex(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn the_kind_of_a_statement_is_seen_past_whatever_stands_before_it() {
        for (sql, reads, works) in [
            ("select 1", true, true),
            ("/* x */ (Select 1)", true, true),
            ("SELECT 1 FOR  UPDATE", false, true),
            ("SELECT 1 LOCK\nIN SHARE MODE", false, true),
            ("\n-- x\nupdate t set a = 1", false, true),
            ("COMMIT", false, false),
            ("XA COMMIT 'x'", false, false),
            ("CREATE TABLE t (id int)", false, false),
            ("", false, false),
            ("'SELECT'", false, false),
        ] {
            let lexed = lex(sql).expect(sql);
            assert_eq!((lexed.reads(), lexed.is_work()), (reads, works), "{sql}");
        }
        assert!(lex("INSERT INTO t VALUES (1) RETURNING id").expect("good").may_return_rows());
        assert!(!lex("UPDATE t SET a = 1").expect("good").may_return_rows());
    }
}
