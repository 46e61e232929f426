//! The program `strandline`: flags, messages and exit codes around the library crates.
//!
//! A command writes its answer to stdout, and log lines, progress and errors to stderr.

mod arguments;
mod commands;
mod config;
mod console;
mod exit;
mod report;

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::Arguments;
use crate::report::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    console::start(arguments.quiet, arguments.verbose, arguments.progress_every);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(commands::run(arguments)));
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report().into(),
    }
}
