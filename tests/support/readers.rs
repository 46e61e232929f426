//! What readers do while a mirror moves, and what they see.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use strandline_testkit::{PAIR, Status, normalise};

use crate::support::truth::{shown_fields, wanted_fields};
use crate::support::world::{World, text};

const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// Also after another thread has panicked: its panic is the one that is to be seen.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A page as a reader saw it: 0 for one that is not there, else a digest of its bytes.
pub(crate) type Seen = u64;

/// A connection that is kept, for a reader asks a thousand times.
pub(crate) struct Reader {
    at: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Reader {
    pub(crate) fn new(at: SocketAddr) -> Self {
        Self { at, stream: None }
    }

    /// The page at a path; `None` if there is none.
    fn get(&mut self, path: &str) -> Option<Vec<u8>> {
        // A server may close a connection that was kept, between two requests; a fresh one has to answer.
        let kept = self.stream.take().and_then(|stream| self.try_get(stream, path));
        let (status, body) = kept.unwrap_or_else(|| {
            let stream = TcpStream::connect(self.at).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let answer = self.try_get(BufReader::new(stream), path);
            assert!(answer.is_some(), "{path}: no answer");
            answer.unwrap_or_default()
        });
        assert!(status == 200 || status == 404, "{path}: {status}");
        (status == 200).then_some(body)
    }

    fn try_get(&mut self, mut stream: BufReader<TcpStream>, path: &str) -> Option<(u16, Vec<u8>)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: {JSON}\r\n\r\n", self.at);
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let (mut length, mut keep) = (0, true);
        loop {
            line.clear();
            stream.read_line(&mut line).ok()?;
            let header = line.trim_end().to_ascii_lowercase();
            match header.split_once(':') {
                None => break,
                Some(("content-length", value)) => length = value.trim().parse().ok()?,
                Some(("connection", value)) => keep = value.trim() != "close",
                Some(_) => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        self.stream = keep.then_some(stream);
        Some((status, body))
    }
}

fn seen(page: Option<&Vec<u8>>) -> Seen {
    page.map_or(0, |body| {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        hasher.finish().max(1)
    })
}

/// Everything that a snapshot, or a sweep of the live view, shows; the list of all projects under the empty name.
pub(crate) type Sweep = BTreeMap<String, Seen>;

/// One sweep of the live view.
pub(crate) struct Swept {
    /// In the order in which it was read.
    pub(crate) pages: Vec<(String, Seen)>,
    /// How many switches there had been at its beginning and its end.
    pub(crate) switches: (u64, u64),
}

/// What the readers and the loop share.
pub(crate) struct Field<'a> {
    pub(crate) world: &'a World,
    pub(crate) nginx: SocketAddr,
    pub(crate) serve: SocketAddr,
    /// Whether the readers have ended.
    pub(crate) stopped: AtomicBool,
    /// Whether all syncs have ended.
    pub(crate) ended: AtomicBool,
    /// Where `live` pointed when it was last looked at, and how often that had changed.
    pub(crate) live: Mutex<(PathBuf, u64)>,
    /// The serials that were published, in order.
    pub(crate) published: Mutex<Vec<u64>>,
    pub(crate) pinned: Mutex<BTreeMap<u64, Sweep>>,
    /// How pinned serials differ from upstream's state.
    pub(crate) wrong: Mutex<BTreeMap<u64, String>>,
}

/// How far behind upstream the live view is, in events and seconds, at some moments.
#[derive(Default)]
pub(crate) struct Lag {
    pub(crate) events: Vec<u32>,
    pub(crate) seconds: Vec<f64>,
}

impl Field<'_> {
    fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// How often the view has been switched. Two switches are never taken for one: `drain` is between them, and
    /// [`watch`](Self::watch) looks far more often.
    pub(crate) fn switches(&self) -> u64 {
        let mut live = locked(&self.live);
        let target = std::fs::read_link(self.world.path("store/views/pypi/live")).unwrap();
        if target != live.0 {
            *live = (target, live.1 + 1);
        }
        live.1
    }

    /// The names of all projects that ever were.
    fn names(&self) -> Vec<String> {
        let names: BTreeSet<_> =
            self.world.upstream.world().events().map(|event| event.name.clone()).collect::<BTreeSet<_>>();
        let names: BTreeSet<_> = names.iter().map(|name| normalise(name)).collect();
        std::iter::once(String::new()).chain(names).collect()
    }

    /// Sweeps the live view again and again.
    pub(crate) fn sweep_live(&self) -> Vec<Swept> {
        let mut reader = Reader::new(self.nginx);
        let mut sweeps = Vec::new();
        while self.goes_on() {
            let names = self.names();
            let begin = self.switches();
            let pages = names.into_iter().map(|name| {
                let page = reader.get(&path("", &name));
                (name, seen(page.as_ref()))
            });
            let pages = pages.collect();
            sweeps.push(Swept { pages, switches: (begin, self.switches()) });
        }
        sweeps
    }

    /// Sweeps pinned serials: the newest that was not, or one that was, which has to be the same.
    pub(crate) fn sweep_pinned(&self) -> usize {
        let mut reader = Reader::new(self.serve);
        let mut count = 0;
        while self.goes_on() {
            let known = locked(&self.published).clone();
            let new = known.iter().rev().find(|serial| !locked(&self.pinned).contains_key(serial));
            match new.or_else(|| known.get(count % known.len().max(1))) {
                Some(serial) => self.sweep(*serial, &mut reader),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
            count += 1;
        }
        count
    }

    /// Sweeps one pinned serial and compares it with upstream's state.
    pub(crate) fn sweep(&self, serial: u64, reader: &mut Reader) {
        let at = format!("/@{serial}");
        let truth: BTreeMap<_, _> = self.world.upstream.world().state_at(serial);
        let mut problems = Vec::new();
        let listed = reader.get(&path(&at, "")).unwrap();
        let list: Value = serde_json::from_slice(&listed).unwrap();
        let line = |project: &Value| (text(&project["name"]), project["_last-serial"].as_u64());
        let listed: BTreeSet<_> = list["projects"].as_array().unwrap().iter().map(line).collect();
        // What is quarantined has a page, and no list names it.
        let wanted = truth.values().filter(|state| state.status != Status::Quarantined);
        let wanted = wanted.map(|state| (state.display_name.clone(), Some(state.serial))).collect();
        if listed != wanted || list["meta"]["_last-serial"] != serial {
            let differ: Vec<_> = listed.symmetric_difference(&wanted).collect();
            problems.push(format!("the list of projects: {differ:?}"));
        }
        let mut sweep = Sweep::new();
        for name in self.names() {
            let page = reader.get(&path(&at, &name));
            sweep.insert(name.clone(), seen(page.as_ref()));
            if name.is_empty() {
                continue;
            }
            let shown = page.map(|body| serde_json::from_slice::<Value>(&body).unwrap());
            let (shown, wanted) = (shown.as_ref().map(shown_fields), truth.get(&name).map(wanted_fields));
            if shown != wanted {
                problems.push(format!("{name}: upstream {wanted:#?}, recorded {shown:#?}"));
            }
        }
        if !problems.is_empty() {
            locked(&self.wrong).insert(serial, problems.join("\n"));
        }
        let before = locked(&self.pinned).insert(serial, sweep.clone());
        if let Some(before) = before {
            let other = before.iter().find(|(name, seen)| sweep.get(*name) != Some(seen));
            assert_eq!(other, None, "serial {serial} is not what it was");
        }
    }

    /// Reads a dependent and what it requires, in the order in which an installer does.
    pub(crate) fn read_pairs(&self, misses: bool) -> usize {
        let mut reader = Reader::new(self.nginx);
        let (base, dependent) = (normalise(PAIR.0), normalise(PAIR.1));
        let mut count = 0;
        while self.goes_on() {
            let page = |body: Vec<u8>| serde_json::from_slice::<Value>(&body).unwrap();
            let dependent = page(reader.get(&path("", &dependent)).unwrap());
            let base = page(reader.get(&path("", &base)).unwrap());
            let versions =
                |page: &Value| page["versions"].as_array().unwrap().iter().map(text).collect::<BTreeSet<_>>();
            let (has, needs) = (versions(&base), versions(&dependent));
            let missing: Vec<_> = needs.difference(&has).collect();
            let whole = missing.is_empty() || misses;
            assert!(whole, "read {count}: {missing:?} of {} are required and not there", PAIR.0);
            for page in [&base, &dependent] {
                let file = page["files"].as_array().unwrap().last().unwrap();
                let url = text(&file["url"]).replacen("../..", "/pypi", 1);
                let body = reader.get(&url);
                let length = body.as_ref().map(Vec::len);
                assert_eq!(length.map(|length| Value::from(length as u64)).as_ref(), Some(&file["size"]), "{url}");
            }
            count += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        count
    }

    /// Watches how far behind the live view is, and that it never goes back.
    pub(crate) fn watch(&self) -> Lag {
        let mut reader = Reader::new(self.nginx);
        let (mut lag, mut newest, mut next) = (Lag::default(), 0, Instant::now());
        while !self.ended.load(Ordering::Relaxed) {
            self.switches();
            if self.goes_on() && Instant::now() >= next {
                next += Duration::from_millis(250);
                let serial = live_serial(&mut reader);
                assert!(serial >= newest, "serial {serial} comes after {newest}");
                newest = serial;
                let upstream = self.world.upstream.world();
                let missing: Vec<_> = upstream.events().filter(|event| event.serial > serial).collect();
                lag.events.push(u32::try_from(missing.len()).unwrap());
                let since = missing.first().map_or(0, |event| upstream.now_ms().saturating_sub(event.at_ms));
                lag.seconds.push(Duration::from_millis(since).as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        lag
    }
}

/// The serial of the list of all projects that readers see.
pub(crate) fn live_serial(reader: &mut Reader) -> u64 {
    let list: Value = serde_json::from_slice(&reader.get(&path("", "")).unwrap()).unwrap();
    list["meta"]["_last-serial"].as_u64().unwrap()
}

fn path(at: &str, name: &str) -> String {
    if name.is_empty() { format!("/pypi{at}/simple/") } else { format!("/pypi{at}/simple/{name}/") }
}
