//! Reads Rust just far enough for the rules: what is code, what is a test, where functions end.
//!
//! Everything that is left out is replaced by blanks, so that line numbers stay the same.

/// A function from its signature to its closing brace.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// The line of the signature, counted from one.
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// The text without comments, and without the contents of texts and characters.
pub(crate) fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = opaque_end(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|&c| if c == '\n' { c } else { ' ' }));
            at = end;
        }
    }
    code
}

/// The end of the comment, text or character that starts here, or `at` if none does.
fn opaque_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => find(chars, at, |c| c == '\n'),
        '/' if next == Some('*') => block_comment_end(chars, at),
        '"' => quoted_end(chars, at, '"'),
        'r' if !is_word_before(chars, at) => raw_end(chars, at),
        '\'' if next == Some('\\') || chars.get(at + 2) == Some(&'\'') => {
            quoted_end(chars, at, '\'')
        }
        _ => at,
    }
}

fn find(chars: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|&at| wanted(chars[at])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(chars.len())
}

fn quoted_end(chars: &[char], from: usize, quote: char) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn raw_end(chars: &[char], at: usize) -> usize {
    let quote = find(chars, at + 1, |c| c != '#');
    if chars.get(quote) != Some(&'"') {
        return at;
    }
    let hashes = quote - at - 1;
    let closes = |end: usize| {
        chars[end] == '"'
            && chars[end + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
    };
    (quote + 1..chars.len()).find(|&end| closes(end)).map_or(chars.len(), |end| end + 1 + hashes)
}

/// Whether a longer word ends here; `b` and `c` may stand before a raw text.
fn is_word_before(chars: &[char], at: usize) -> bool {
    let is_word = |back: usize| at >= back && is_word(chars[at - back]);
    match at.checked_sub(1).map(|before| chars[before]) {
        Some('b' | 'c') => is_word(2),
        Some(_) => is_word(1),
        None => false,
    }
}

/// Whether the character may be part of a name.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The code without the items that exist only in tests.
pub(crate) fn without_tests(code: &str) -> String {
    let mut product = code.to_owned();
    for (start, end) in attributes(code) {
        if is_for_tests(&code[start..end]) {
            let end = item_end(code, end);
            let blank: String =
                code[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
            // Bytes and characters differ only in what was not ASCII; blanks fill up the rest.
            let filler = " ".repeat(end - start - blank.len());
            product.replace_range(start..end, &(blank + &filler));
        }
    }
    product
}

/// The names of all test functions.
pub(crate) fn test_names(code: &str) -> Vec<String> {
    let tests = attributes(code).into_iter().filter(|&(start, end)| is_test(&code[start..end]));
    tests
        .filter_map(|(_, end)| functions(&code[end..]).into_iter().next())
        .map(|it| it.name)
        .collect()
}

/// Where the attributes are, from `#[` to behind `]`.
fn attributes(code: &str) -> Vec<(usize, usize)> {
    let starts = code.match_indices("#[").map(|(start, _)| start);
    starts.map(|start| (start, closing(code, start + 1))).collect()
}

fn is_test(attribute: &str) -> bool {
    let inner = attribute.trim_start_matches("#[").split(['(', ']']).next().unwrap_or_default();
    inner.rsplit("::").next().is_some_and(|name| name.trim() == "test")
}

fn is_for_tests(attribute: &str) -> bool {
    let is_cfg = attribute.starts_with("#[cfg(") && !attribute.contains("not(");
    is_test(attribute) || is_cfg && attribute.split(|c| !is_word(c)).any(|word| word == "test")
}

/// The end of the item that starts here: its `;` or the end of its body.
fn item_end(code: &str, from: usize) -> usize {
    let mut at = from;
    while at < code.len() {
        match code.as_bytes()[at] {
            b'(' | b'[' => at = closing(code, at),
            b'{' => return closing(code, at),
            b';' => return at + 1,
            _ => at += 1,
        }
    }
    code.len()
}

/// The position behind the bracket that closes the one that opens here.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// All functions that have a body, also those within others.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let mut functions = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let name: String = code[at + 3..].chars().take_while(|&c| is_word(c)).collect();
        let end = item_end(code, at);
        let is_keyword = !code[..at].ends_with(is_word);
        if is_keyword && !name.is_empty() && code[..end].ends_with('}') {
            let line = code[..at].matches('\n').count() + 1;
            let lines = code[at..end].matches('\n').count() + 1;
            functions.push(Function { name, line, lines });
        }
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_no_code() {
        let text = r####"a(); // b();
/* c /* d */ e */ f("g\"h", 'i', '\'', b'j'); r#"k"l"#; br"m"; for_r"n"; x: &'static str"####;
        let code = code(text);
        let words: Vec<&str> = code.split(|c| !is_word(c)).filter(|it| !it.is_empty()).collect();
        assert_eq!(words, ["a", "f", "b", "b", "for_r", "x", "static", "str"]);
        assert_eq!(code.lines().count(), text.lines().count());
        assert_eq!(code.chars().count(), text.chars().count());
    }

    #[test]
    fn items_for_tests_are_no_product() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\n#[test]\nfn c() { [1; 2] }\n\
                    #[cfg(not(test))]\nfn d() {}\n#[cfg(any(test, feature = \"  \"))]\nmod e;\nfn f() {}";
        let product = without_tests(code);
        let names: Vec<String> = functions(&product).into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["a", "d", "f"]);
        assert_eq!(product.len(), code.len());
    }

    #[test]
    fn functions_end_with_their_body() {
        let code = "trait T { fn none(&self) -> [u8; 4]; }\n\
                    fn two(f: fn (u8) -> u8) -> [u8; 4] {\n}\nfn one() { { } }\n";
        let function = |name: &str, line, lines| Function { name: name.to_owned(), line, lines };
        assert_eq!(functions(code), [function("two", 2, 2), function("one", 4, 1)]);
    }

    #[test]
    fn tests_are_known_by_their_attribute() {
        let code = "#[test]\nfn a() {}\nfn b() {}\n#[tokio::test(start_paused = true)]\n\
                    #[ignore]\nasync fn c() {}\n#[cfg(test)]\nfn d() {}";
        assert_eq!(test_names(code), ["a", "c"]);
    }
}
