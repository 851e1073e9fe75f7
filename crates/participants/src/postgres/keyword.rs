//! The first word of a statement, past comments.
//!
//! Only enough to see what would end or outlive a transaction; the server parses the rest.

/// The first word in capitals; empty if there is none.
pub(super) fn keyword(sql: &str) -> String {
    let rest = past_comments(sql);
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    rest[..end].to_ascii_uppercase()
}

fn past_comments(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ';' | '('));
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.find(['\n', '\r']).map_or("", |end| &comment[end..]);
        } else if rest.starts_with("/*") {
            rest = past_block(rest);
        } else {
            return rest;
        }
    }
}

/// Comments in blocks may be nested.
fn past_block(text: &str) -> &str {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return &text[at..];
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_found_past_whatever_stands_before_it() {
        for (sql, word) in [
            ("update t set a = 1", "UPDATE"),
            (" ;-- x\n/* a /* b */ c */\tCommit", "COMMIT"),
            ("((select 1))", "SELECT"),
            ("--only a comment", ""),
            ("/* open", ""),
            ("", ""),
        ] {
            assert_eq!(keyword(sql), word, "{sql:?}");
        }
    }
}
