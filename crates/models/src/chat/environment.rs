//! The Jinja environment that templates of Hugging Face checkpoints expect, with bounds.
//!
//! Source: transformers `utils/chat_template_utils.py` (`_compile_jinja_template`): trimmed blocks, loop controls, `tojson` without
//! HTML escapes, `raise_exception`, `strftime_now`.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind};

use super::json;

/// The one template of an environment.
pub(super) const NAME: &str = "chat";

/// Instructions that a rendering may take. `minijinja` also charges one for every 64 bytes it builds, so this bounds memory too:
/// 128 MB. A conversation of a thousand messages takes some hundred thousand.
pub(super) const FUEL: u64 = 2_000_000;

/// A macro that calls itself ends here, well before the stack of a server's thread does.
const RECURSION: usize = 200;

/// What a template says through `raise_exception`, carried as an error's source.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An environment that holds `source` as [`NAME`].
pub(super) fn compile(source: String) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("fromjson", json::fromjson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_template_owned(NAME, source)?;
    Ok(environment)
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message.to_owned())))
}
