//! Streaming: the pieces put together, and never half a character.

use nxd_models::tokenizer::{TextStream, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::{cases, load};

/// The same sequences at each run; failures are shown, not kept, since they belong to a case of the golden set.
fn runner() -> TestRunner {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// The tokens' bytes one after the other, read as UTF-8, without the space that some tokenizers put before the first word.
fn text_of_bytes(tokenizer: &Tokenizer, ids: &[u32], plain_start: &str) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id).to_vec()).collect();
    let text = String::from_utf8_lossy(&bytes);
    text.strip_prefix(plain_start).unwrap_or(&text).to_owned()
}

#[test]
fn golden_pieces_together_are_the_tokens_bytes() {
    for dir in cases() {
        let tokenizer = load(&dir);
        let size = tokenizer.vocab_size() as u32;
        // Ids past the end are no tokens and add nothing.
        let sequences = proptest::collection::vec(0..size + 2, 0..60);
        let mut runner = runner();
        runner
            .run(&sequences, |ids| {
                let mut stream = tokenizer.stream(false).continued();
                let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
                text.push_str(&stream.finish());
                prop_assert_eq!(&text, &text_of_bytes(&tokenizer, &ids, ""));

                let byte_runs = ids.iter().any(|id| tokenizer.token_bytes(*id).len() == 1);
                let mut stream = tokenizer.stream(true);
                let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
                text.push_str(&stream.finish());
                // Byte tokens apart, both ways to text agree; `decode` judges a run of byte tokens as a whole.
                if !byte_runs || !tokenizer.decode(&ids, true).contains('\u{fffd}') {
                    prop_assert_eq!(text, tokenizer.decode(&ids, true));
                }
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    }
}

#[test]
fn golden_streams_equal_decode_where_no_token_is_a_byte() {
    let mut checked = 0;
    for dir in cases() {
        let tokenizer = load(&dir);
        if tokenizer.token_id("<0x0A>").is_some() {
            continue;
        }
        let sequences = proptest::collection::vec(0..tokenizer.vocab_size() as u32, 0..60);
        let mut runner = runner();
        runner
            .run(&(sequences, any::<bool>()), |(ids, skip)| {
                let mut stream = tokenizer.stream(skip);
                let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
                text.push_str(&stream.finish());
                prop_assert_eq!(text, tokenizer.decode(&ids, skip));
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        checked += 1;
    }
    println!("{checked} tokenizers");
    assert!(checked > 0);
}

#[test]
fn golden_decode_is_that_of_the_library() {
    for dir in cases() {
        let tokenizer = load(&dir);
        let library = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
        let sequences = proptest::collection::vec(0..tokenizer.vocab_size() as u32, 0..40);
        let mut runner = runner();
        runner
            .run(&(sequences, any::<bool>()), |(ids, skip)| {
                prop_assert_eq!(tokenizer.decode(&ids, skip), library.decode(&ids, skip).unwrap());
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    }
}

#[test]
fn golden_streams_that_never_complete_a_character_are_still_heard() {
    let mut heard_of = 0;
    for tokenizer in cases().iter().map(|dir| load(dir)) {
        // The first byte of a four-byte character, over and over: each next one makes the one before invalid.
        let Some(id) = (0..tokenizer.vocab_size() as u32).find(|id| tokenizer.token_bytes(*id) == [0xf0]) else {
            continue;
        };
        let mut stream = tokenizer.stream(false);
        let heard: String = (0..200).map(|_| stream.push(id)).collect();
        assert!(heard.chars().count() > 100 && heard.chars().all(|c| c == '\u{fffd}'));
        assert_eq!(heard + &stream.finish(), "\u{fffd}".repeat(200));
        heard_of += 1;
    }
    assert!(heard_of > 0);
}

#[test]
fn golden_continued_streams_keep_the_space_before_a_word() {
    for tokenizer in cases().iter().map(|dir| load(dir)) {
        let ids = tokenizer.encode("at", false).unwrap();
        let read = |mut stream: TextStream| -> String { ids.iter().map(|id| stream.push(*id)).collect() };
        let space = if tokenizer.token_bytes(ids[0]).starts_with(b" ") { " " } else { "" };
        assert_eq!(read(tokenizer.stream(false)), "at");
        assert_eq!(read(tokenizer.stream(false).continued()), format!("{space}at"));
    }
}
