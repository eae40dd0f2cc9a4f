//! `nxd pull`: brings a model into the cache and prints its path.

use crate::args::PullArgs;
use crate::failure::Failure;
use crate::{hub, output};

pub(crate) fn run(args: &PullArgs) -> Result<(), Failure> {
    let settings = hub::Settings::from_env(args.refresh)?;
    let path = hub::resolve(&args.model, &settings)?;
    let shown = path.display().to_string();
    if args.json { output::line(&serde_json::json!({ "path": shown }).to_string()) } else { output::line(&shown) }
}
