//! The index on loopback: [`Upstream`] and its knobs. What it answers is in `routes.rs`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use crate::faults::{Faults, Rule, RuleId};
use crate::history::Generator;
use crate::http::{self, Response};
use crate::world::{World, millis};

/// How many XML-RPC calls are answered in a window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls in a window.
    pub calls: u64,
    /// The window. The first call after one has passed begins the next.
    pub window: Duration,
}

/// How many requests came, whichever answer they got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// XML-RPC calls by method.
    pub xmlrpc: BTreeMap<String, u64>,
    /// Requests for the root.
    pub root: u64,
    /// Of these, answered 304.
    pub root_304: u64,
    /// Requests for projects' pages.
    pub page: u64,
    /// Of these, answered 304.
    pub page_304: u64,
    /// Requests for files.
    pub file: u64,
    /// Requests for `.metadata`.
    pub metadata: u64,
    /// Everything else, redirects included.
    pub other: u64,
}

impl Counts {
    /// All requests.
    pub fn total(&self) -> u64 {
        self.xmlrpc.values().sum::<u64>() + self.root + self.page + self.file + self.metadata + self.other
    }
}

/// What becomes of an answer, by the path that was asked for and the XML-RPC method, if there is one.
type Change = dyn Fn(&str, &str, Response) -> Response + Send + Sync;

/// A [`Change`].
#[derive(Clone)]
pub(crate) struct Changed(pub(crate) Arc<Change>);

impl fmt::Debug for Changed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Changed").finish_non_exhaustive()
    }
}

/// The knobs that are not faults.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) faults: Faults,
    pub(crate) overrides: HashMap<String, Response>,
    pub(crate) changed: Option<Changed>,
    pub(crate) json: bool,
    pub(crate) serials: bool,
    pub(crate) xmlrpc: bool,
    pub(crate) gzip: bool,
    pub(crate) file_base: Option<String>,
    pub(crate) changelog_limit: usize,
    pub(crate) rate_limit: Option<RateLimit>,
    /// When the window began, and the calls in it.
    pub(crate) window: (u64, u64),
}

/// What was asked for.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) counts: Counts,
    pub(crate) paths: BTreeMap<String, u64>,
    pub(crate) headers: HashMap<String, Vec<(String, String)>>,
}

#[derive(Debug)]
enum Clock {
    Real { start_ms: u64, since: Instant },
    Manual(u64),
}

impl Clock {
    fn now_ms(&self) -> u64 {
        match self {
            Self::Real { start_ms, since } => start_ms + millis(since.elapsed()),
            Self::Manual(unix_ms) => *unix_ms,
        }
    }
}

/// What the server's threads share, and the world and its clock with other edges. No two of these are ever locked at once,
/// except the world after the clock.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Where pages say that the files are, unless something else is set.
    pub(crate) file_url: String,
    world: Arc<Mutex<World>>,
    settings: Mutex<Settings>,
    counters: Mutex<Counters>,
    clock: Arc<Mutex<Clock>>,
    pub(crate) waiting: Arc<http::Waiting>,
}

impl Shared {
    /// The world, with its time set.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        let now_ms = self.now_ms();
        let mut world = lock(&self.world);
        world.set_time(now_ms);
        world
    }

    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.settings)
    }

    pub(crate) fn counters(&self) -> MutexGuard<'_, Counters> {
        lock(&self.counters)
    }

    pub(crate) fn now_ms(&self) -> u64 {
        lock(&self.clock).now_ms()
    }
}

/// Also after another thread has panicked: its panic is the one that a test has to show.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The fake index, serving on loopback on threads of its own until it is dropped.
pub struct Upstream {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    mover: Mutex<Option<Mover>>,
}

struct Mover {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<Generator>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Upstream").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Upstream {
    /// Serves `world` on a free port of 127.0.0.1, by the real clock.
    pub fn start(world: World) -> io::Result<Self> {
        Self::start_on(world, 0)
    }

    /// Serves `world` on this port of 127.0.0.1, by the real clock.
    pub fn start_on(mut world: World, port: u16) -> io::Result<Self> {
        world.stop_ticking();
        let clock = Clock::Real { start_ms: unix_ms(), since: Instant::now() };
        Self::serve(Arc::new(Mutex::new(world)), Arc::new(Mutex::new(clock)), port, None)
    }

    /// The same index at another address, as another cache before it has it: with faults, knobs and counters of its own, which
    /// begin as by default. World and clock are the same. Its pages name the files where this one's do.
    pub fn edge(&self) -> io::Result<Self> {
        let Shared { world, clock, file_url, .. } = &*self.shared;
        Self::serve(Arc::clone(world), Arc::clone(clock), 0, Some(file_url.clone()))
    }

    fn serve(
        world: Arc<Mutex<World>>,
        clock: Arc<Mutex<Clock>>,
        port: u16,
        file_url: Option<String>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            file_url: file_url.unwrap_or_else(|| format!("http://{address}")),
            world,
            settings: Mutex::new(Settings {
                faults: Faults::new(0),
                overrides: HashMap::new(),
                changed: None,
                json: true,
                serials: true,
                xmlrpc: true,
                gzip: true,
                file_base: None,
                changelog_limit: 50_000,
                rate_limit: None,
                window: (0, 0),
            }),
            counters: Mutex::default(),
            waiting: Arc::default(),
            clock,
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("fake-index")
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let for_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("fake-index".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    result = accept(listener, for_thread) => {
                        if let Err(error) = result {
                            tracing::error!(%error, "the fake index stopped listening");
                        }
                    }
                    _ = stopped => {}
                }
            });
            // Connections, hanging ones too, end here.
            drop(runtime);
        })?;
        Ok(Self { shared, address, stop: Some(stop), thread: Some(thread), mover: Mutex::new(None) })
    }

    /// Where it is: `http://127.0.0.1:PORT/`.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Where its Simple API is: `http://127.0.0.1:PORT/simple/`.
    pub fn simple_url(&self) -> String {
        format!("{}simple/", self.url())
    }

    /// Its address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The world, to look at or to change. Its time is now. Nothing is answered while the guard lives, so drop it before
    /// the next request.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world()
    }

    // Time.

    /// Unix time as the index sees it, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.shared.now_ms()
    }

    /// Stops the clock where the world's last change left it, or at the moment given if that is later. From now on only
    /// [`Upstream::advance`] moves it. Call it before the world moves by the real clock.
    pub fn set_manual_clock(&self, unix_ms: u64) {
        let world_ms = lock(&self.shared.world).now_ms();
        *lock(&self.shared.clock) = Clock::Manual(unix_ms.max(world_ms));
    }

    /// Moves a manual clock on, or a real one forward.
    pub fn advance(&self, by: Duration) {
        match &mut *lock(&self.shared.clock) {
            Clock::Real { start_ms: now_ms, .. } | Clock::Manual(now_ms) => *now_ms += millis(by),
        }
    }

    // Faults.

    /// Adds a rule.
    pub fn fault(&self, rule: Rule) -> RuleId {
        self.shared.settings().faults.add(rule)
    }

    /// Takes a rule away.
    pub fn remove_fault(&self, id: RuleId) {
        self.shared.settings().faults.remove(id);
    }

    /// Takes all rules away.
    pub fn clear_faults(&self) {
        self.shared.settings().faults.clear();
    }

    /// Decides what chance brings from now on.
    pub fn set_fault_seed(&self, seed: u64) {
        self.shared.settings().faults.set_seed(seed);
    }

    /// Answers every request for this path (decoded, without query) with `response` and nothing else. Faults of delivery
    /// and status still apply.
    pub fn override_path(&self, path: &str, response: Response) {
        self.shared.settings().overrides.insert(path.to_owned(), response);
    }

    /// Takes an override away.
    pub fn remove_override(&self, path: &str) {
        self.shared.settings().overrides.remove(path);
    }

    /// From now on gives what `change` makes of each answer: of the path (decoded, without query), the XML-RPC method (empty where
    /// there is none), and the answer as it would have been. It is called by several threads at once. Faults of delivery still apply.
    pub fn change_answers(&self, change: impl Fn(&str, &str, Response) -> Response + Send + Sync + 'static) {
        self.shared.settings().changed = Some(Changed(Arc::new(change)));
    }

    /// Gives the answers as they are again.
    pub fn keep_answers(&self) {
        self.shared.settings().changed = None;
    }

    // What kind of index it is.

    /// Whether pages come in JSON too. Default: yes.
    pub fn json(&self, on: bool) {
        self.shared.settings().json = on;
    }

    /// Whether there are serials: in pages, in headers, and by XML-RPC. Default: yes.
    pub fn serials(&self, on: bool) {
        self.shared.settings().serials = on;
    }

    /// Whether there is XML-RPC. Default: yes.
    pub fn xmlrpc(&self, on: bool) {
        self.shared.settings().xmlrpc = on;
    }

    /// Whether pages are compressed for clients that accept it. Default: yes.
    pub fn gzip(&self, on: bool) {
        self.shared.settings().gzip = on;
    }

    /// What stands before `/packages/…` in file URLs, whatever [`World::move_files`] says. Default: the URL of this server.
    /// `../..` makes relative ones.
    pub fn file_base(&self, base: &str) {
        self.shared.settings().file_base = Some(base.to_owned());
    }

    /// Rows in one answer to `changelog_since_serial`. Default: 50,000.
    pub fn changelog_limit(&self, rows: usize) {
        self.shared.settings().changelog_limit = rows;
    }

    /// Limits XML-RPC calls, or stops doing so.
    pub fn rate_limit(&self, limit: Option<RateLimit>) {
        let mut settings = self.shared.settings();
        settings.rate_limit = limit;
        settings.window = (0, 0);
    }

    // What was asked for.

    /// Requests by kind since the start or the last reset.
    pub fn counts(&self) -> Counts {
        self.shared.counters().counts.clone()
    }

    /// Requests for one path (decoded, without query) since then.
    pub fn requests(&self, path: &str) -> u64 {
        self.shared.counters().paths.get(path).copied().unwrap_or_default()
    }

    /// Requests for every path since then.
    pub fn requested(&self) -> BTreeMap<String, u64> {
        self.shared.counters().paths.clone()
    }

    /// A header of the last request for a path.
    pub fn last_header(&self, path: &str, name: &str) -> Option<String> {
        let counters = self.shared.counters();
        let headers = counters.headers.get(path)?;
        let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    }

    /// The most requests that waited for an answer at the same time since then.
    pub fn most_waiting(&self) -> u64 {
        self.shared.waiting.most()
    }

    /// Starts counting anew.
    pub fn reset_counters(&self) {
        *self.shared.counters() = Counters::default();
        self.shared.waiting.reset();
    }

    // Moving by itself.

    /// Lets the generator make this many journaled events per second, until [`Upstream::stop_moving`] or the end. The
    /// pace is real time; the events' times are by the clock. A mover that was there is stopped first.
    pub fn run_at(&self, events_per_second: f64, mut generator: Generator) -> io::Result<()> {
        drop(self.stop_moving());
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let for_thread = Arc::clone(&stop);
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("fake-index-mover".to_owned()).spawn(move || {
            let (flag, changed) = &*for_thread;
            let mut due = Instant::now();
            loop {
                let events = {
                    let mut world = shared.world();
                    generator.step(&mut world).len()
                };
                // A step that writes no event takes the time of one, too, or the loop would make such steps without a pause.
                let share = f64::from(u32::try_from(events.max(1)).unwrap_or(u32::MAX)) / events_per_second;
                due += Duration::try_from_secs_f64(share).unwrap_or(Duration::MAX / 4);
                let wait = due.saturating_duration_since(Instant::now());
                let guard = lock(flag);
                let waited = changed.wait_timeout_while(guard, wait, |stopped| !*stopped);
                if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                    return generator;
                }
            }
        })?;
        *lock(&self.mover) = Some(Mover { stop, thread });
        Ok(())
    }

    /// Stops what [`Upstream::run_at`] began, and gives the generator back.
    pub fn stop_moving(&self) -> Option<Generator> {
        let mover = lock(&self.mover).take()?;
        *lock(&mover.stop.0) = true;
        mover.stop.1.notify_all();
        mover.thread.join().ok()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop_moving());
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the fake index panicked");
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let answer = Arc::new(move |request: &http::Request| shared.answer(request));
    loop {
        let (stream, _) = listener.accept().await?;
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            if let Err(error) = http::connection(stream, answer).await {
                tracing::debug!(%error, "a connection to the fake index broke");
            }
        });
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the real clock of a fake index; tests that decide the time set a manual one"
)]
fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}
