//! `serve` and `nginx`.

use std::net::SocketAddr;
use std::path::absolute;
use std::sync::Arc;

use strandline_serve::Site;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{formats, open, say};
use crate::config::Config;
use crate::exit::Exit;
use crate::report::{During as _, Failure};

/// A server that runs beside the rest of the program.
pub(crate) struct Running {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

/// Starts to serve all mirrors of the store.
pub(crate) async fn start(config: &Config, listen: SocketAddr) -> Result<Running, Failure> {
    // Creates the store if need be, so that there is something to serve from.
    drop(open(&config.store)?);
    let site = Arc::new(Site::open(&config.store, formats())?);
    let listener = TcpListener::bind(listen)
        .await
        .during(|| format!("cannot listen on {listen}; `--listen ADDRESS:PORT` says where else"))?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(strandline_serve::serve(listener, site, async {
        // A sender that was dropped means the same as one that has sent.
        drop(stopped.await);
    }));
    Ok(Running { address, stop, task })
}

impl Running {
    /// Ends it, after the requests that are under way.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        drop(self.stop);
        self.task.await?.during(|| "the server ended early")
    }
}

/// Serves until Ctrl-C.
pub(crate) async fn serve(config: &Config, listen: SocketAddr) -> Result<Exit, Failure> {
    let server = start(config, listen).await?;
    tracing::info!("serving on http://{}/; Ctrl-C ends", server.address);
    stop().await?;
    server.stop().await?;
    Ok(Exit::Done)
}

/// Waits for Ctrl-C or a request to terminate.
pub(crate) async fn stop() -> Result<(), Failure> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .during(|| "cannot listen for SIGTERM")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.during(|| "cannot listen for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}

/// Prints a configuration for nginx.
pub(crate) fn nginx(config: &Config, listen: &str) -> Result<Exit, Failure> {
    let store = absolute(&config.store).during(|| format!("where is `{}`?", config.store.display()))?;
    let mirrors: Vec<_> = config.mirrors(&[])?.into_iter().map(|(name, _)| name.clone()).collect();
    say!("{}", strandline_serve::nginx::server_block(&store, &mirrors, listen).trim_end());
    Ok(Exit::Done)
}
