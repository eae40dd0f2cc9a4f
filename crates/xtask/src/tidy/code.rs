//! Rust source with comments (and, if asked, literals) blanked out, and the identifiers of what is left.
//!
//! A scanner, not a parser: it knows just enough to tell code from text, and keeps every line where it was.

/// What happens to the contents of string and character literals.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Literals {
    Keep,
    Blank,
}

/// `source` with each byte of a comment replaced by a space; newlines stay, so line numbers hold.
pub(super) fn code(source: &str, literals: Literals) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (end, keep) = match token(bytes, at) {
            Token::Comment(end) => (end, false),
            Token::Literal(end) => (end, literals == Literals::Keep),
            Token::Code => (at + 1, true),
        };
        let end = end.min(bytes.len());
        out.extend(bytes[at..end].iter().map(|&b| if keep || b == b'\n' { b } else { b' ' }));
        at = end;
    }
    // Pieces end at ASCII bytes, so what is kept is whole characters.
    String::from_utf8_lossy(&out).into_owned()
}

/// The identifiers and keywords of `code`, each with its line counted from 1.
pub(super) fn identifiers(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(n, line)| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .map(move |word| (n + 1, word))
    })
}

/// The words of an identifier in lower case: `PjrtClient2` and `pjrt_client2` are `pjrt`, `client`.
pub(super) fn words(identifier: &str) -> Vec<String> {
    let chars: Vec<char> = identifier.chars().collect();
    let mut words = vec![String::new()];
    for (i, &c) in chars.iter().enumerate() {
        let after_lower = i > 0 && !chars[i - 1].is_uppercase();
        let before_lower = chars.get(i + 1).is_some_and(|next| next.is_lowercase());
        if c == '_' || (c.is_uppercase() && (after_lower || before_lower)) {
            words.push(String::new());
        }
        if c.is_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What begins at a place, with the offset where it ends.
enum Token {
    Comment(usize),
    Literal(usize),
    Code,
}

fn token(bytes: &[u8], at: usize) -> Token {
    let rest = &bytes[at..];
    match rest[0] {
        b'/' if rest.starts_with(b"//") => {
            Token::Comment(at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()))
        }
        b'/' if rest.starts_with(b"/*") => Token::Comment(at + block_comment(rest)),
        b'"' => Token::Literal(at + quoted(rest, b'"')),
        b'\'' => char_literal(rest).map_or(Token::Code, |len| Token::Literal(at + len)),
        b'r' if at == 0 || !is_word(bytes[at - 1]) || is_raw_prefix(bytes, at) => {
            raw_string(rest).map_or(Token::Code, |len| Token::Literal(at + len))
        }
        _ => Token::Code,
    }
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || !b.is_ascii()
}

/// Whether the `r` at `at` follows a lone `b` or `c`, as in `br"…"` and `cr"…"`.
fn is_raw_prefix(bytes: &[u8], at: usize) -> bool {
    matches!(bytes[at - 1], b'b' | b'c') && (at < 2 || !is_word(bytes[at - 2]))
}

/// The length of a block comment, which may nest.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut i) = (0usize, 0);
    while i < rest.len() {
        if rest[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if rest[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                break;
            }
        } else {
            i += 1;
        }
    }
    i
}

/// The length of a literal closed by `end`, with backslash escapes.
fn quoted(rest: &[u8], end: u8) -> usize {
    let mut i = 1;
    while i < rest.len() && rest[i] != end {
        i += if rest[i] == b'\\' { 2 } else { 1 };
    }
    i + 1
}

/// The length of a character literal, or `None` where the quote begins a lifetime.
fn char_literal(rest: &[u8]) -> Option<usize> {
    let first = *rest.get(1)?;
    if first == b'\\' {
        return Some(quoted(rest, b'\''));
    }
    let width = match first {
        0..=0x7f => 1,
        0x80..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

/// The length of `r"…"` or `r#"…"#`, or `None` where the `r` begins something else.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    let open = 1 + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let body = open + 1;
    let close = |i: &usize| {
        rest[*i] == b'"' && rest[*i + 1..].len() >= hashes && rest[*i + 1..*i + 1 + hashes].iter().all(|&b| b == b'#')
    };
    Some((body..rest.len()).find(close).map_or(rest.len(), |i| i + 1 + hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str, literals: Literals) -> Vec<String> {
        identifiers(&code(source, literals)).map(|(_, word)| word.to_owned()).collect()
    }

    #[test]
    fn comments_are_blanked_and_lines_stay() {
        let text = code("a // b\n/* c /* d */\n e */ f", Literals::Keep);
        assert_eq!(identifiers(&text).collect::<Vec<_>>(), [(1, "a"), (3, "f")]);
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn literals_are_kept_or_blanked() {
        let source = r##"x("one \" two", r#"three " four"#, br"five", b'6', '\'', 'é', c"seven") y"##;
        assert_eq!(names(source, Literals::Blank), ["x", "br", "b", "c", "y"].map(|s| s.replace("br", "b")));
        assert!(names(source, Literals::Keep).contains(&"four".to_owned()));
        // A comment sign inside a literal begins no comment.
        assert_eq!(names("a(\"//\") b", Literals::Blank), ["a", "b"]);
    }

    #[test]
    fn a_lifetime_is_no_literal() {
        assert_eq!(names("fn f<'a>(x: &'a str, y: char) { 'b' }", Literals::Blank).join(" "), "fn f a x a str y char");
        assert_eq!(names("for r#type in r { bar\"x\" }", Literals::Blank), ["for", "r", "type", "in", "r", "bar"]);
    }

    #[test]
    fn unterminated_text_ends_with_the_file() {
        for source in ["\"abc", "\"abc\\", "r#\"abc", "/* abc", "'\\", "'", "// é"] {
            assert_eq!(code(source, Literals::Keep).len(), source.len(), "{source}");
        }
    }

    #[test]
    fn identifiers_split_into_words() {
        assert_eq!(words("CpuDevice"), ["cpu", "device"]);
        assert_eq!(words("is_avx2_CPUList"), ["is", "avx", "cpu", "list"]);
        assert_eq!(words("occupied"), ["occupied"]);
    }
}
