//! The two servers: the embedded one, and nginx with the configuration that this crate prints.
#![expect(clippy::disallowed_methods, reason = "nginx reads its configuration from files")]

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use strandline_model::Formats;
use strandline_serve::Site;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::support::world::{FORMAT, Outcome, World};

/// The embedded server, in a thread of its own; it ends with the value.
pub(crate) struct Embedded {
    pub(crate) at: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Embedded {
    pub(crate) fn start(world: &World) -> Outcome<Self> {
        Self::start_with(world, Formats::usual(Arc::new(FORMAT)))
    }

    /// The same for mirrors of these formats.
    pub(crate) fn start_with(world: &World, formats: Formats) -> Outcome<Self> {
        let site = Arc::new(Site::open(world.root(), formats)?);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let at = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                strandline_serve::serve(listener, site, async { stopped.await.unwrap_or(()) }).await
            })
        });
        Ok(Self { at, stop: Some(stop), thread: Some(thread) })
    }

    /// Asks it to stop, and waits until it did.
    pub(crate) fn stop(&mut self) -> Outcome<()> {
        drop(self.stop.take());
        match self.thread.take() {
            Some(thread) => Ok(thread.join().map_err(|_| "the server died")??),
            None => Ok(()),
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            assert!(std::thread::panicking(), "the server ended with {error}");
        }
    }
}

/// An nginx of its own; it ends with the value.
pub(crate) struct Nginx {
    pub(crate) at: SocketAddr,
    process: Child,
    _directory: TempDir,
}

impl Nginx {
    pub(crate) fn start(world: &World) -> Outcome<Self> {
        // The port is free when it is chosen and may be taken a moment later.
        let mut last = None;
        for _ in 0..5 {
            match Self::try_start(world) {
                Ok(nginx) => return Ok(nginx),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| "not tried".into()))
    }

    fn try_start(world: &World) -> Outcome<Self> {
        let directory = tempfile::Builder::new().prefix("nginx").tempdir()?;
        let at = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let text = strandline_serve::nginx::server_block(
            world.root(),
            &["other".parse()?, world.mirror().clone()],
            &at.to_string(),
        );
        fs::write(directory.path().join("strandline.conf"), text)?;
        let temporary =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|of| format!("{of}_temp_path {of};")).join(" ");
        // Around it stand such things as Debian's configuration has, and some that must not matter.
        let around = "types { text/html html; } gzip on; gzip_types *; sendfile off; charset koi8-r; etag off;";
        let main = format!(
            "daemon off; master_process off; pid nginx.pid; error_log error.log; events {{}}\n\
             http {{ access_log off; {around} {temporary} include strandline.conf; }}\n"
        );
        fs::write(directory.path().join("nginx.conf"), main)?;
        let mut process = Command::new(program()?)
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(directory.path().join("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        for _ in 0..200 {
            if process.try_wait()?.is_some() {
                let said = process.wait_with_output()?.stderr;
                return Err(format!("nginx ended: {}", String::from_utf8_lossy(&said)).into());
            }
            if TcpStream::connect(at).is_ok() {
                return Ok(Self { at, process, _directory: directory });
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        process.kill()?;
        process.wait()?;
        Err("nginx does not answer".into())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        assert!(ended.is_ok() || std::thread::panicking(), "nginx does not end");
    }
}

fn program() -> Outcome<&'static str> {
    // Debian has it where only root's PATH looks.
    for program in ["nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"] {
        let found = if Path::new(program).is_absolute() {
            Path::new(program).exists()
        } else {
            Command::new(program).arg("-v").stderr(Stdio::null()).status().is_ok()
        };
        if found {
            return Ok(program);
        }
    }
    Err("these tests need nginx: run scripts/test, which installs it, or install Debian's nginx-light".into())
}
