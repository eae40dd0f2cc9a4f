//! What the commands do, one file each.

mod bench;
mod check;
mod completions;
mod doctor;
mod drive;
mod inspect;
mod load;
mod pull;

use crate::args::Command;
use crate::failure::{Failure, Kind};

/// Runs the command that was typed.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Bench(args) => bench::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Generate(_) | Command::Chat(_) => Err(Failure::new(Kind::Failed, "this command is not wired yet")),
    }
}
