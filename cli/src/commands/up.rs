//! `up`: to serve and to sync, until Ctrl-C.

use std::net::SocketAddr;
use std::time::Duration;

use strandline_model::MirrorName;
use strandline_store::Wait;

use super::sync::{Asked, sync_all};
use super::{keep_reserve, open, say, serve};
use crate::config::{Config, Mirror};
use crate::exit::Exit;
use crate::report::Failure;

/// Nobody is there to accept a drop.
const ASKED: Asked = Asked { wait: Wait::Never, accept_drop: false };

/// Serves, syncs, says what to try, and syncs again until Ctrl-C.
pub(crate) async fn up(config: &Config, listen: SocketAddr, every: Duration) -> Result<Exit, Failure> {
    let mirrors = config.mirrors(&[])?;
    let store = open(&config.store)?;
    keep_reserve(&store);
    let server = serve::start(config, listen).await?;
    let address = server.address;

    let work = async {
        let exit = sync_all(config, &store, &mirrors, ASKED).await;
        let mut any = false;
        for (name, mirror) in &mirrors {
            if store.mirror(name)?.map(|mirror| mirror.view_state()).transpose()?.flatten().is_some() {
                any = true;
                say!("{}", pip_line(address, name, mirror));
            }
        }
        if !any {
            return Ok(exit);
        }
        tracing::info!("serving on http://{address}/, syncing every {} s; Ctrl-C ends", every.as_secs());
        loop {
            tokio::time::sleep(every).await;
            sync_all(config, &store, &mirrors, ASKED).await;
        }
    };
    let done: Result<Exit, Failure> = tokio::select! {
        done = work => done,
        stopped = serve::stop() => stopped.map(|()| {
            tracing::info!("stopped; what was published stays, what was under way is begun again by the next sync");
            Exit::Done
        }),
    };
    server.stop().await?;
    done
}

/// The command with which to try a mirror.
fn pip_line(address: SocketAddr, mirror: &MirrorName, configured: &Mirror) -> String {
    let project = configured.first_project().map_or("PROJECT", |name| name.as_str());
    format!("pip install --index-url http://{address}/{mirror}/simple/ {project}")
}
