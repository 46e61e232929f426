//! What another program says.
//!
//! What always holds: it ends within the time that is given for it, and no more than a bound is read. Tested in
//! `upstream.rs` and `credentials.rs`.

use std::io::Read as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest answer that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// What the program writes to its standard output, and how it ended; `None` where it had to be ended. The error says why
/// there is no answer, and nothing of what the program wrote.
pub(crate) fn answer(mut command: Command, patience: Duration) -> Result<(String, Option<ExitStatus>), String> {
    let end = Instant::now() + patience;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let (sender, receiver) = mpsc::channel();
    let output = child.stdout.take();
    // The reader may outlive this call, if a child of the child keeps the pipe; it ends with the pipe.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.map(|output| output.take(LONGEST).read_to_end(&mut bytes));
        if sender.send(read.map(|read| read.map(|_| bytes))).is_err() {
            tracing::debug!("an answer came after its time");
        }
    });
    let outcome = receiver.recv_timeout(patience);
    let whole = matches!(&outcome, Ok(Some(Ok(bytes))) if (bytes.len() as u64) < LONGEST);
    let status = if whole { ended(&mut child, end) } else { None };
    if status.is_none()
        && let Err(error) = child.kill().and_then(|()| child.wait())
    {
        tracing::debug!(%error, "a program could not be ended");
    }
    match outcome {
        Ok(Some(Ok(bytes))) => Ok((String::from_utf8_lossy(&bytes).into_owned(), status)),
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(None) => Err("it has no output".to_owned()),
        Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
    }
}

/// How a program ends that has written all it has to write, if it does so in time.
fn ended(child: &mut Child, end: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            Ok(status) => return status,
            Err(_) => return None,
        }
    }
}
