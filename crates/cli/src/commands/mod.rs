//! What the commands do, one file each.

mod completions;
mod doctor;
mod pull;

use crate::args::Command;
use crate::failure::{Failure, Kind};

/// Runs the command that was typed.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Completions(args) => completions::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Generate(_) | Command::Chat(_) | Command::Check(_) | Command::Inspect(_) | Command::Bench(_) => {
            Err(Failure::new(Kind::Failed, "this command is not wired yet"))
        }
    }
}
