//! What the index answers to each request.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::faults::{Asked, Endpoint, Label, Plan};
use crate::http::{Delivery, Request, Response};
use crate::project::normalise;
use crate::render::{self, Context};
use crate::server::{Changed, Shared};
use crate::world::World;

/// The forms a page comes in, in the server's order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Html,
    V1Html,
    V1Json,
}

impl Form {
    const ALL: [Self; 3] = [Self::Html, Self::V1Html, Self::V1Json];

    fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=UTF-8",
            Self::V1Html => "application/vnd.pypi.simple.v1+html",
            Self::V1Json => "application/vnd.pypi.simple.v1+json",
        }
    }

    /// How much the media range of an `Accept` header is about this form: 0 not at all, 3 exactly.
    fn matched(self, range: &str) -> u8 {
        let exact = match self {
            Self::Html => ["text/html", "text/html"],
            Self::V1Html => ["application/vnd.pypi.simple.v1+html", "application/vnd.pypi.simple.latest+html"],
            Self::V1Json => ["application/vnd.pypi.simple.v1+json", "application/vnd.pypi.simple.latest+json"],
        };
        let group = exact[0].split_once('/').map_or("", |(group, _)| group);
        match range.split_once('/') {
            _ if exact.contains(&range) => 3,
            Some((range, "*")) if range == group => 2,
            Some(("*", "*")) => 1,
            _ => 0,
        }
    }

    /// The form that the client likes best; `text/html` where it likes none, as the edge answers.
    fn negotiate(accept: &str, json: bool) -> Self {
        if !json {
            return Self::Html;
        }
        let accept = accept.to_ascii_lowercase();
        let ranges: Vec<(&str, f32)> = accept
            .split(',')
            .map(|item| {
                let mut parts = item.split(';').map(str::trim);
                let range = parts.next().unwrap_or_default();
                let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
                (range, quality.unwrap_or(1.0))
            })
            .collect();
        let mut best = (Self::Html, 0.0);
        for form in Self::ALL {
            let liked = ranges.iter().filter(|(range, _)| form.matched(range) > 0);
            let liked = liked.max_by_key(|(range, _)| form.matched(range));
            if let Some((_, quality)) = liked
                && *quality > best.1
            {
                best = (form, *quality);
            }
        }
        best.0
    }
}

/// Where a path leads.
enum Place {
    XmlRpc,
    Root,
    Page(String),
    Redirect(String),
    Stored,
    Nowhere,
}

impl Place {
    fn of(path: &str) -> Self {
        if matches!(path, "/pypi" | "/pypi/") {
            return Self::XmlRpc;
        }
        if path.starts_with("/packages/") {
            return Self::Stored;
        }
        match path.strip_prefix("/simple") {
            Some("") => Self::Redirect("/simple/".to_owned()),
            Some("/") => Self::Root,
            Some(rest) => {
                let Some(name) = rest.strip_prefix('/') else {
                    return Self::Nowhere;
                };
                let bare = name.strip_suffix('/').unwrap_or(name);
                if bare.is_empty() || bare.contains('/') {
                    return Self::Nowhere;
                }
                let normal = normalise(bare);
                if name == format!("{normal}/") {
                    Self::Page(normal)
                } else {
                    Self::Redirect(format!("/simple/{normal}/"))
                }
            }
            None => Self::Nowhere,
        }
    }

    fn endpoint(&self, path: &str) -> Endpoint {
        match self {
            Self::XmlRpc => Endpoint::XmlRpc,
            Self::Root => Endpoint::Root,
            Self::Page(_) => Endpoint::Page,
            Self::Stored if path.ends_with(".metadata") => Endpoint::Metadata,
            Self::Stored => Endpoint::File,
            Self::Redirect(_) | Self::Nowhere => Endpoint::Other,
        }
    }
}

/// What one request is answered from.
struct Visit<'a> {
    request: &'a Request,
    plan: Plan,
    form: Form,
    gzip: bool,
    serials: bool,
    now_ms: u64,
    /// Whether pages name files where the world has moved them.
    files_move: bool,
    context: Context,
}

/// An XML-RPC call, and how it may be answered.
struct Asking {
    call: Call,
    /// Whether the index has XML-RPC.
    answered: bool,
    changelog_limit: usize,
    limited: Limited,
}

impl Shared {
    /// Answers one request, and counts it.
    pub(crate) fn answer(&self, request: &Request) -> (Response, Delivery) {
        let waiting = self.waiting.begin();
        let place = Place::of(&request.path);
        let kind = place.endpoint(&request.path);
        let call = (kind == Endpoint::XmlRpc).then(|| Call::parse(&request.body));
        let method = call.as_ref().map_or("", |call| call.method.as_str());
        self.count(request, kind, method);

        let now_ms = self.now_ms();
        let mut settings = self.settings();
        let form = Form::negotiate(request.header("accept").unwrap_or_default(), settings.json);
        let accepted = request.header("accept-encoding").unwrap_or_default();
        let gzip = settings.gzip && accepted.split([',', ' ', ';']).any(|word| word == "gzip");
        let plan = settings.faults.plan(Asked {
            kind,
            path: &request.path,
            method,
            variant: &format!("{} {gzip}", form.content_type()),
            now_ms,
        });
        let delivery = Delivery {
            waiting: Some(waiting),
            latency: plan.latency,
            hang: plan.hang,
            reset: plan.reset,
            truncate: plan.truncate,
            drip: plan.drip,
        };
        let set = settings.overrides.get(&request.path).cloned();
        let changed = settings.changed.clone();
        let method = method.to_owned();
        let call = call.map(|call| {
            let answered = settings.xmlrpc && settings.serials;
            let limited = if answered { settings.take_call(now_ms) } else { Limited::default() };
            Asking { call, answered, changelog_limit: settings.changelog_limit, limited }
        });
        let visit = Visit {
            request,
            form,
            gzip,
            serials: settings.serials,
            now_ms,
            files_move: settings.file_base.is_none(),
            context: Context {
                file_base: settings.file_base.clone().unwrap_or_else(|| self.file_url.clone()),
                serials: settings.serials,
            },
            plan,
        };
        drop(settings);

        let mut response = match (visit.plan.status, set) {
            (Some((status, retry_after)), _) => failed(status, retry_after),
            (None, Some(response)) => response,
            (None, None) => self.faultless(&visit, place, call.as_ref()),
        };
        if response.status == 304 {
            self.count_304(kind);
        }
        if visit.plan.corrupt && !response.body.is_empty() {
            let mut body = response.body.to_vec();
            let middle = body.len() / 2;
            body[middle] ^= 1;
            response.body = body.into();
        }
        if let Some(Changed(change)) = changed {
            response = change(&request.path, &method, response);
        }
        (response, delivery)
    }

    /// What the world gives.
    fn faultless(&self, visit: &Visit<'_>, place: Place, call: Option<&Asking>) -> Response {
        let method = visit.request.method.as_str();
        if let Some(asking) = call {
            return match method {
                _ if !asking.answered => not_found(),
                "POST" => visit.xmlrpc(&self.world(), &asking.call, asking.changelog_limit, &asking.limited),
                _ => Response::text(405, "POST only"),
            };
        }
        if !matches!(method, "GET" | "HEAD") {
            return Response::text(405, "GET or HEAD only");
        }
        match place {
            Place::Root => visit.root(&self.world()),
            Place::Page(name) => visit.page(&self.world(), &name),
            Place::Redirect(to) => Response::new(301).header("Location", &render::percent_encode(&to)),
            Place::Stored => visit.stored(&self.world()),
            Place::XmlRpc | Place::Nowhere => not_found(),
        }
    }

    fn count(&self, request: &Request, kind: Endpoint, method: &str) {
        let mut counters = self.counters();
        let counts = &mut counters.counts;
        match kind {
            Endpoint::XmlRpc => *counts.xmlrpc.entry(method.to_owned()).or_default() += 1,
            Endpoint::Root => counts.root += 1,
            Endpoint::Page => counts.page += 1,
            Endpoint::File => counts.file += 1,
            Endpoint::Metadata => counts.metadata += 1,
            Endpoint::Other => counts.other += 1,
        }
        *counters.paths.entry(request.path.clone()).or_default() += 1;
        counters.headers.insert(request.path.clone(), request.headers.clone());
    }

    fn count_304(&self, kind: Endpoint) {
        let counts = &mut self.counters().counts;
        match kind {
            Endpoint::Root => counts.root_304 += 1,
            Endpoint::Page => counts.page_304 += 1,
            _ => {}
        }
    }
}

/// The status that a fault asks for.
fn failed(status: u16, retry_after: Option<u64>) -> Response {
    let response = Response::text(status, "a fault was asked for");
    match retry_after {
        Some(seconds) => response.header("Retry-After", &seconds.to_string()),
        None => response,
    }
}

impl Visit<'_> {
    fn page(&self, world: &World, name: &str) -> Response {
        let mut content_ms = self.plan.as_of_ms;
        let mut state = world.project_seen(name, content_ms);
        if state.is_none() && !self.plan.stale_not_found {
            content_ms = self.now_ms;
            state = world.project_seen(name, content_ms);
        }
        let Some(state) = state else {
            return not_found();
        };
        let label = match self.plan.label {
            None => state.page_serial,
            Some(Label::Behind(by)) => {
                let read_ms = content_ms.saturating_sub(crate::world::millis(by));
                let before = world.project_seen(name, read_ms).map(|before| before.serial);
                // A project younger than that had its first serial then.
                let first = world.events_of(name).next().map(|event| event.serial);
                before.or(first).unwrap_or(state.page_serial).min(state.page_serial)
            }
            Some(Label::BehindEvents(count)) => {
                let seen = world.events_of(name).filter(|event| event.serial <= state.page_serial);
                let seen: Vec<u64> = seen.map(|event| event.serial).collect();
                seen.get(seen.len().saturating_sub(1 + count)).copied().unwrap_or(state.page_serial)
            }
        };
        // A page names its files where they were when it was made.
        let mut context = self.context.clone();
        if let Some(base) = world.file_host(content_ms).filter(|_| self.files_move) {
            base.clone_into(&mut context.file_base);
        }
        let body = match self.form {
            Form::V1Json => render::page_json(&state, label, &context),
            Form::Html | Form::V1Html => render::page_html(&state, label, &context),
        };
        self.simple(body, label)
    }

    fn root(&self, world: &World) -> Response {
        let lines = world.list_seen(self.plan.as_of_ms);
        let label = match self.plan.label {
            None => world.serial_seen(self.plan.as_of_ms),
            Some(Label::Behind(by)) => world.serial_seen(self.plan.as_of_ms.saturating_sub(crate::world::millis(by))),
            Some(Label::BehindEvents(count)) => {
                let mut seen = world.events().rev().filter(|event| event.visible_ms <= self.plan.as_of_ms);
                seen.nth(count).map_or(0, |event| event.serial)
            }
        };
        let body = match self.form {
            Form::V1Json => render::root_json(lines.values(), label, &self.context),
            Form::Html | Form::V1Html => render::root_html(lines.values(), label, &self.context),
        };
        self.simple(body, label)
    }

    /// A page with its headers, or 304 where the client has it.
    fn simple(&self, body: Bytes, label: u64) -> Response {
        let etag = etag(&blake3::hash(&body).to_hex()[..32]);
        let has_it = self.request.header("if-none-match").is_some_and(|known| names(known, &etag));
        let mut response = Response::new(if has_it { 304 } else { 200 })
            .header("Cache-Control", "max-age=600, public")
            .header("ETag", &etag)
            .header("Vary", "Accept, Accept-Encoding");
        if self.serials {
            response = response.header("X-PyPI-Last-Serial", &label.to_string());
        }
        if has_it {
            return response;
        }
        response = response.header("Content-Type", self.form.content_type());
        if self.gzip {
            return response.header("Content-Encoding", "gzip").body(compress(&body));
        }
        response.body(body)
    }

    fn stored(&self, world: &World) -> Response {
        let path = &self.request.path;
        let young = |since: u64| self.now_ms < since.saturating_add(self.plan.late_ms);
        if self.plan.late_ms > 0 && world.stored_since(path).is_some_and(young) {
            return not_found();
        }
        let Some((body, digest)) = world.stored_with_digest(path) else {
            return not_found();
        };
        let etag = etag(&digest[..32]);
        let response = |status: u16| {
            Response::new(status)
                .header("Content-Type", "application/octet-stream")
                .header("Cache-Control", "max-age=365000000, immutable, public")
                .header("Accept-Ranges", "bytes")
                .header("ETag", &etag)
        };
        if self.request.header("if-none-match").is_some_and(|known| names(known, &etag)) {
            return response(304);
        }
        let same = self.request.header("if-range").is_none_or(|known| known == etag);
        match self.request.header("range").filter(|_| same).map(|range| slice(range, body.len())) {
            None | Some(Part::Whole) => response(200).body(body),
            Some(Part::Nothing) => response(416).header("Content-Range", &format!("bytes */{}", body.len())),
            Some(Part::Bytes(from, to)) => response(206)
                .header("Content-Range", &format!("bytes {from}-{to}/{}", body.len()))
                .body(body.slice(from..=to)),
        }
    }

    fn xmlrpc(&self, world: &World, call: &Call, changelog_limit: usize, limited: &Limited) -> Response {
        let at_ms = self.plan.as_of_ms;
        let body = if limited.refused {
            render::rpc_fault(-32500, "HTTPTooManyRequests: too many calls; wait for the limit to reset")
        } else {
            match (call.method.as_str(), call.argument) {
                ("changelog_last_serial", _) => render::rpc_serial(world.serial_seen(at_ms)),
                ("changelog_since_serial", Some(serial)) => {
                    render::rpc_events(&world.changelog(serial, changelog_limit, at_ms))
                }
                ("changelog_since_serial", None) => render::rpc_fault(-32602, "the serial is missing"),
                ("list_packages_with_serial", _) => render::rpc_list(world.list_seen(at_ms).values()),
                (method, _) => render::rpc_fault(-32601, &format!("there is no method `{method}`")),
            }
        };
        let mut response = Response::new(200).header("Content-Type", "text/xml; charset=UTF-8").body(body);
        response.headers.extend(limited.headers.iter().cloned());
        response
    }
}

/// What the rate limit makes of one call.
#[derive(Debug, Default)]
struct Limited {
    refused: bool,
    headers: Vec<(String, String)>,
}

impl crate::server::Settings {
    /// Counts one call against the limit.
    fn take_call(&mut self, now_ms: u64) -> Limited {
        let Some(limit) = self.rate_limit else {
            return Limited::default();
        };
        let window_ms = crate::world::millis(limit.window);
        if now_ms >= self.window.0 + window_ms {
            self.window = (now_ms, 0);
        }
        let refused = self.window.1 >= limit.calls;
        if !refused {
            self.window.1 += 1;
        }
        let left = limit.calls - self.window.1;
        let reset = (self.window.0 + window_ms - now_ms).div_ceil(1000);
        Limited {
            refused,
            headers: vec![
                ("RateLimit-Policy".to_owned(), format!("\"xmlrpc\";q={};w={}", limit.calls, limit.window.as_secs())),
                ("RateLimit".to_owned(), format!("\"xmlrpc\";r={left};t={reset}")),
            ],
        }
    }
}

/// An XML-RPC call, as far as the three methods need it.
struct Call {
    method: String,
    argument: Option<u64>,
}

impl Call {
    fn parse(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let between = |tag: &str| {
            let (_, rest) = text.split_once(&format!("<{tag}>"))?;
            let (inner, _) = rest.split_once(&format!("</{tag}>"))?;
            Some(inner.trim().to_owned())
        };
        Self {
            method: between("methodName").unwrap_or_default(),
            argument: ["int", "i4", "i8"].iter().find_map(|tag| between(tag)?.parse().ok()),
        }
    }
}

/// The part of a body that a `Range` header asks for.
enum Part {
    Whole,
    Nothing,
    /// First and last byte.
    Bytes(usize, usize),
}

fn slice(range: &str, length: usize) -> Part {
    let part = range.strip_prefix("bytes=").and_then(|part| part.trim().split_once('-'));
    let Some((from, to)) = part.filter(|_| !range.contains(',')) else {
        return Part::Whole;
    };
    let (from, to) = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) if from <= to => (from, to.min(length.saturating_sub(1))),
        (Ok(from), Err(_)) if to.is_empty() => (from, length.saturating_sub(1)),
        (Err(_), Ok(0)) if from.is_empty() => return Part::Nothing,
        (Err(_), Ok(last)) if from.is_empty() => (length.saturating_sub(last), length.saturating_sub(1)),
        _ => return Part::Whole,
    };
    if from < length { Part::Bytes(from, to) } else { Part::Nothing }
}

fn not_found() -> Response {
    Response::text(404, "404 Not Found")
}

fn etag(digest: &str) -> String {
    format!("\"{digest}\"")
}

/// Whether an `If-None-Match` header names the tag.
fn names(header: &str, etag: &str) -> bool {
    let mut tags = header.split(',').map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|tag| tag == "*" || tag == etag)
}

fn compress(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("writing to memory does not fail").into()
}
