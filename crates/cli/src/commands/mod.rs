//! What the commands do, one file each.

mod bench;
mod chat;
mod check;
mod completions;
mod doctor;
mod drive;
mod generate;
mod inspect;
mod load;
mod plan;
mod pull;
mod quantize;
mod serve;

use crate::args::Command;
use crate::failure::Failure;

/// Runs the command that was typed.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Bench(args) => bench::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Serve(args) => serve::run(&args),
    }
}
