//! The two servers, and a client that asks them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::tools::program;
use crate::support::world::{Process, World};

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Asks for a path, with more lines of the head.
#[track_caller]
pub(crate) fn get(at: SocketAddr, path: &str, head: &[&str]) -> Answer {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // Of HTTP/1.0, for then the body comes as it is and ends with the connection.
    let more = head.iter().flat_map(|line| [line, "\r\n"]).collect::<String>();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {at}\r\n{more}\r\n").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(':').unwrap());
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Answer { status, headers, body: bytes[end + 4..].to_vec() }
}

/// `strandline serve`, until the value is dropped.
pub(crate) struct Serve {
    pub(crate) at: SocketAddr,
    _process: Process,
}

impl Serve {
    #[track_caller]
    pub(crate) fn start(world: &World) -> Self {
        let mut process = world.start(&["serve", "--listen", "127.0.0.1:0"]);
        let at = process.until("the server", |process| address_in(&process.err()));
        Self { at, _process: process }
    }
}

/// The address that the program says it serves on, once it does.
pub(crate) fn address_in(said: &str) -> Option<SocketAddr> {
    let (address, _) = said.split_once("serving on http://")?.1.split_once('/')?;
    address.parse().ok()
}

/// A real nginx, with what `strandline nginx` prints unless told otherwise, until the value is dropped.
pub(crate) struct Nginx {
    pub(crate) at: SocketAddr,
    process: Child,
}

impl Nginx {
    #[track_caller]
    pub(crate) fn start(world: &World) -> Self {
        Self::start_with(world, |at| world.done(&["nginx", "--listen", &at.to_string()]))
    }

    /// With another configuration, for the address where it will be.
    #[track_caller]
    pub(crate) fn start_with(world: &World, configuration: impl Fn(SocketAddr) -> String) -> Self {
        // A port that was free a moment ago may be taken by now: then another one is tried.
        let mut said = String::new();
        for _ in 0..5 {
            match Self::try_start(world, &configuration) {
                Ok(nginx) => return nginx,
                Err(why) => said = why,
            }
        }
        unreachable!("nginx does not start: {said}")
    }

    /// With TLS before the server at `url`. The root of trust is `ca.pem` in the world's directory.
    #[track_caller]
    pub(crate) fn with_tls(world: &World, url: &str) -> Self {
        let directory = world.path("");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&directory, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=a-root-of-trust -days 2"));
        openssl(&directory, &format!("req {key} -keyout server.key -out server.csr -subj /CN=index"));
        fs::write(world.path("names"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
        openssl(
            &directory,
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
        );
        let [certificate, key] = ["server.pem", "server.key"].map(|name| world.path(name));
        Self::start_with(world, |at| {
            format!(
                "server {{\n    listen {at} ssl;\n    ssl_certificate {};\n    ssl_certificate_key {};\n    \
                 location / {{ proxy_pass {url}; }}\n}}\n",
                certificate.display(),
                key.display(),
            )
        })
    }

    fn try_start(world: &World, configuration: &impl Fn(SocketAddr) -> String) -> Result<Self, String> {
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let directory = tempfile::Builder::new().prefix("nginx-").tempdir_in(world.path("")).unwrap().keep();
        fs::write(directory.join("strandline.conf"), configuration(at)).unwrap();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|of| format!("    {of}_temp_path {of};\n")).concat();
        let main = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log;\nevents {{}}\n\
             http {{\n    access_log off;\n{temporary}    include strandline.conf;\n}}\n"
        );
        fs::write(directory.join("nginx.conf"), main).unwrap();
        let mut process = Command::new(program("nginx"))
            .arg("-p")
            .arg(&directory)
            .args(["-e", "error.log", "-c", "nginx.conf"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if process.try_wait().unwrap().is_some() {
                break;
            }
            if TcpStream::connect(at).is_ok() {
                return Ok(Self { at, process });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        Err(fs::read_to_string(directory.join("error.log")).unwrap_or_default())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        assert!(ended.is_ok() || std::thread::panicking(), "nginx does not end");
    }
}

/// Runs openssl in a directory.
#[track_caller]
fn openssl(directory: &Path, arguments: &str) {
    let mut command = Command::new(program("openssl"));
    let output = command.args(arguments.split(' ')).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
