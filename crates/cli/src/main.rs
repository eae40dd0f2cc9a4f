//! The `nxd` program: parses the command line, installs the log, runs one command, and turns its failure into an exit code.
//!
//! Reading order: [`args`] (what can be typed), [`commands`] (one file each), [`hub`] (from a model's name to files on
//! disk), [`failure`] (what a user sees when something goes wrong).

mod args;
mod commands;
mod environment;
mod failure;
mod hub;
mod output;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, LogArgs, LogFormat};
use failure::{Failure, Kind};

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(args::spelled_out(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to say when stderr itself is closed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Kind::Usage as u8));
        }
    };
    match install_log(&cli.log, default_level(&cli.command)).and_then(|()| commands::run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

/// What is logged when nothing is asked for: a server says what it does, other commands only what is wrong.
fn default_level(command: &Command) -> &'static str {
    if matches!(command, Command::Serve(_)) { "warn,nxd_server=info" } else { "warn" }
}

fn install_log(args: &LogArgs, default: &str) -> Result<(), Failure> {
    let directives = args.log_level.clone().or_else(environment::rust_log).unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&directives).map_err(|error| {
        Failure::new(Kind::Usage, format!("`{directives}` is not a log level: {error}"))
            .with_help("write `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `nxd_engine=debug`")
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !environment::no_color());
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
