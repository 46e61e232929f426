//! What can go wrong with an answer, and for which requests it does.
//!
//! A [`Rule`] says on what ([`On`]), how often ([`Rule::chance`], [`Rule::times`], [`Rule::skip`]) and what
//! ([`Fault`]). All rules that hit a request act together. Chance is decided by the seed, the rule, the path and how
//! many times that path was asked for, so it does not depend on the order in which parallel requests arrive.

use std::collections::HashMap;
use std::time::Duration;

use crate::rng::{hash, unit};
use crate::world::millis;

/// The kinds of things that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /pypi`.
    XmlRpc,
    /// `/simple/`.
    Root,
    /// `/simple/PROJECT/`.
    Page,
    /// `/packages/…`.
    File,
    /// `/packages/….metadata`.
    Metadata,
    /// Redirects and everything unknown.
    Other,
}

/// The requests a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// All of them.
    Everything,
    /// One path, decoded, without a query.
    Path(String),
    /// All paths that begin so.
    Prefix(String),
    /// All of a kind.
    Kind(Endpoint),
    /// One XML-RPC method.
    Method(String),
}

/// How old what a cache serves is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// An edge that fetches each page every so often, no matter what was purged: the answer is up to this old. Pages,
    /// and the variants of a page, are fetched at different moments.
    UpTo(Duration),
    /// Always exactly this old.
    Exactly(Duration),
    /// As it was at this moment of Unix time, in milliseconds, for as long as the rule stands.
    StuckAt(u64),
}

/// The serial that a page claims, where it is not that of what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// The serial that stood this long before the content.
    Behind(Duration),
    /// The serial of the project's event this many before its last. It stays wrong for as long as the rule stands.
    BehindEvents(usize),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The answer is an old one, with its old serial. For XML-RPC: the log or the list as it was.
    Stale {
        /// How old.
        age: Age,
        /// Whether a 404 is cached too. If not, a project that was not there yet is shown as it is now.
        not_found: bool,
        /// Whether every other request, by chance, reaches a node that is fresh.
        flapping: bool,
    },
    /// The page, or the root, claims a lower serial than that of its content.
    Label(Label),
    /// This status in place of the answer, with `Retry-After` in seconds where given.
    Status {
        /// Such as 503 or 429.
        status: u16,
        /// Seconds.
        retry_after: Option<u64>,
    },
    /// The whole length is announced, half of the body sent, and the connection closed.
    Truncate,
    /// One byte in the middle of the body is another. Aim it at files: a page has no digest that would show it.
    Corrupt,
    /// The connection is reset in place of an answer.
    Reset,
    /// There is never an answer. The connection stays open.
    Hang,
    /// The body comes in pieces of `bytes` with a `pause` (of real time) before each.
    Drip {
        /// Bytes in a piece.
        bytes: usize,
        /// Time before each piece.
        pause: Duration,
    },
    /// A file, or what lies beside it, is 404 until this long after its upload.
    Late(Duration),
    /// 404.
    Gone,
    /// The answer begins after this long (of real time).
    Latency(Duration),
}

/// A fault, and when it happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    on: On,
    fault: Fault,
    chance: f64,
    times: Option<u64>,
    skip: u64,
}

impl Rule {
    /// `fault` on every request that is `on`.
    pub fn new(on: On, fault: Fault) -> Self {
        Self { on, fault, chance: 1.0, times: None, skip: 0 }
    }

    /// Only with this probability.
    #[must_use]
    pub fn chance(mut self, chance: f64) -> Self {
        self.chance = chance;
        self
    }

    /// Only this many times, over all paths.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Not on the first `count` requests that it is on, over all paths.
    #[must_use]
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }
}

/// Names a rule, so that it can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(u64);

/// What the rules together make of one request.
#[expect(clippy::struct_excessive_bools, reason = "each is a fault of its own, and all may come together")]
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) as_of_ms: u64,
    pub(crate) stale_not_found: bool,
    pub(crate) label: Option<Label>,
    pub(crate) status: Option<(u16, Option<u64>)>,
    pub(crate) truncate: bool,
    pub(crate) corrupt: bool,
    pub(crate) reset: bool,
    pub(crate) hang: bool,
    pub(crate) drip: Option<(usize, Duration)>,
    pub(crate) late_ms: u64,
    pub(crate) latency: Duration,
}

/// What is asked for, as far as rules go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) kind: Endpoint,
    pub(crate) path: &'a str,
    /// The XML-RPC method, or empty.
    pub(crate) method: &'a str,
    /// Tells the variants of a page apart, as a cache does.
    pub(crate) variant: &'a str,
    pub(crate) now_ms: u64,
}

/// The rules that stand.
#[derive(Debug)]
pub(crate) struct Faults {
    seed: u64,
    rules: Vec<(RuleId, Rule, Used)>,
    next: u64,
    /// How many times each path was asked for.
    asked: HashMap<String, u64>,
}

#[derive(Debug, Default)]
struct Used {
    matched: u64,
    fired: u64,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, rules: Vec::new(), next: 0, asked: HashMap::new() }
    }

    pub(crate) fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    pub(crate) fn add(&mut self, rule: Rule) -> RuleId {
        let id = RuleId(self.next);
        self.next += 1;
        self.rules.push((id, rule, Used::default()));
        id
    }

    pub(crate) fn remove(&mut self, id: RuleId) {
        self.rules.retain(|(known, _, _)| *known != id);
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// Decides what happens to one request.
    pub(crate) fn plan(&mut self, asked: Asked<'_>) -> Plan {
        let nth = self.asked.entry(asked.path.to_owned()).or_default();
        *nth += 1;
        let nth = *nth;
        let mut plan = Plan { as_of_ms: asked.now_ms, ..Plan::default() };
        for (id, rule, used) in &mut self.rules {
            if !rule.on.is(asked) {
                continue;
            }
            used.matched += 1;
            let dice = hash(self.seed ^ (id.0 << 32), asked.path, nth);
            let spent = rule.times.is_some_and(|times| used.fired >= times);
            if used.matched <= rule.skip || spent || unit(dice) >= rule.chance {
                continue;
            }
            used.fired += 1;
            plan.add(rule.fault, asked, self.seed, nth);
        }
        plan
    }
}

impl On {
    fn is(&self, asked: Asked<'_>) -> bool {
        match self {
            Self::Everything => true,
            Self::Path(path) => path == asked.path,
            Self::Prefix(prefix) => asked.path.starts_with(prefix),
            Self::Kind(kind) => *kind == asked.kind,
            Self::Method(method) => asked.kind == Endpoint::XmlRpc && method == asked.method,
        }
    }
}

impl Plan {
    fn add(&mut self, fault: Fault, asked: Asked<'_>, seed: u64, nth: u64) {
        match fault {
            Fault::Stale { age, not_found, flapping } => {
                // Not the numbers of the rule's own chance, or the same requests would always reach the same node.
                if flapping && hash(seed ^ 0xf1a9, asked.path, nth) & 1 == 0 {
                    return;
                }
                self.as_of_ms = self.as_of_ms.min(age.as_of(asked, seed));
                self.stale_not_found |= not_found;
            }
            Fault::Label(label) => self.label = Some(label),
            Fault::Status { status, retry_after } => self.status = Some((status, retry_after)),
            Fault::Truncate => self.truncate = true,
            Fault::Corrupt => self.corrupt = true,
            Fault::Reset => self.reset = true,
            Fault::Hang => self.hang = true,
            Fault::Drip { bytes, pause } => self.drip = Some((bytes.max(1), pause)),
            Fault::Late(after) => self.late_ms = self.late_ms.max(millis(after)),
            Fault::Gone => self.status = Some((404, None)),
            Fault::Latency(latency) => self.latency += latency,
        }
    }
}

impl Age {
    fn as_of(self, asked: Asked<'_>, seed: u64) -> u64 {
        match self {
            Self::UpTo(age) => {
                let period = millis(age).max(1);
                let phase = hash(seed, &format!("{}\n{}", asked.path, asked.variant), 0) % period;
                asked.now_ms - (asked.now_ms.saturating_sub(phase)) % period
            }
            Self::Exactly(age) => asked.now_ms.saturating_sub(millis(age)),
            Self::StuckAt(unix_ms) => unix_ms.min(asked.now_ms),
        }
    }
}
