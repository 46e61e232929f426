//! What becomes of an answer: pure functions of the answer and of chance.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use serde_json::{Value, json};
use strandline_testkit::{Response, Rng};

/// Texts that stand where others are expected.
const ODD: [&str; 16] = [
    "",
    "\0",
    "../../../etc/passwd",
    "http://127.0.0.1:1/packages/aa/bb/x-1.0.tar.gz",
    "file:///etc/passwd",
    "ftp://127.0.0.1/x",
    "%2e%2e/%00",
    "\u{202e}\u{1b}[2J",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "9999-12-31T23:59:59Z",
    "2026-99-99T99:99:99Z",
    "-1",
    "99999999999999999999999999999999999999",
    "1e999",
    "<a href=\"#\">&",
    "quarantined?",
];

/// Numbers that stand where others are expected, as they are written.
const ABSURD: [&str; 8] =
    ["0", "-1", "1e999", "0.5", "9007199254740993", "18446744073709551615", "9223372036854775808", "00"];

/// A number below `bound` that depends on `text`, `nth` and the seed alone.
pub(crate) fn dice(seed: u64, text: &str, nth: u64) -> Rng {
    let spread = |seed, byte| Rng::new(seed ^ u64::from(byte)).bits();
    Rng::new(text.bytes().fold(Rng::new(seed ^ nth.rotate_left(32)).bits(), spread))
}

/// A page, a list or a call's answer, whose status is 200.
pub(crate) fn answer(rng: &mut Rng, path: &str, answer: Response) -> Response {
    // What tells the client that it has this answer already, has to be another where the answer is.
    let answer = without(answer, "etag");
    match rng.below(20) {
        0..=6 => told(rng, answer),
        7..=9 => bytes(rng, answer),
        10..=12 => lines(rng, answer),
        13 => status(rng, answer),
        14 => kind(rng, answer),
        15 => packed(rng, answer),
        16 => written(rng, answer),
        17 => redirected(rng, path),
        18 => with_header(rng, answer),
        _ => of_another(rng, path, answer),
    }
}

/// A file or its metadata.
pub(crate) fn file(rng: &mut Rng, path: &str, answer: Response) -> Response {
    let answer = without(answer, "etag");
    match rng.below(12) {
        0..=5 => bytes(rng, answer),
        6 => status(rng, answer),
        7 => redirected(rng, path),
        8 => packed(rng, answer),
        9 => with_header(rng, answer),
        10 => answer.body(""),
        _ => for_people(),
    }
}

fn without(mut answer: Response, header: &str) -> Response {
    answer.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(header));
    answer
}

fn replaced(answer: Response, header: &str, value: &str) -> Response {
    without(answer, header).header(header, value)
}

fn pick<'a, T: ?Sized>(rng: &mut Rng, items: &[&'a T]) -> &'a T {
    items[rng.below(items.len())]
}

fn for_people() -> Response {
    let page =
        "<!DOCTYPE html><html><head><title>Sign in</title></head><body><a href=\"/login\">Sign in</a></body></html>";
    Response::new(200).header("Content-Type", "text/html; charset=utf-8").body(page)
}

/// The bytes are others, or fewer, or more.
fn bytes(rng: &mut Rng, answer: Response) -> Response {
    let mut body = answer.body.to_vec();
    for _ in 0..=rng.below(4) {
        let (at, length) = (rng.below(body.len()), 1 + rng.below(40));
        let end = (at + length).min(body.len());
        match rng.below(6) {
            _ if body.is_empty() => body = rng.bytes(length),
            0 => body[at] ^= 1 << rng.below(8),
            1 => body[at] = rng.bytes(1)[0],
            2 => body.truncate(at),
            3 => drop(body.drain(at..end)),
            4 => {
                let again = body[at..end].to_vec();
                body.splice(at..at, again);
            }
            _ => {
                let odd = rng.bytes(length);
                body.splice(at..at, odd);
            }
        }
    }
    answer.body(body)
}

/// Lines are missing, doubled or changed places, or a number or a text in them is an odd one. Of a page of one line, only these are.
fn lines(rng: &mut Rng, answer: Response) -> Response {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    for _ in 0..=rng.below(3) {
        let (one, other) = (rng.below(lines.len()), rng.below(lines.len()));
        match rng.below(6) {
            0 if lines.len() > 1 => drop(lines.remove(one)),
            1 if lines.len() > 1 => lines.swap(one, other),
            2 if lines.len() > 1 => lines.insert(one, lines[other].clone()),
            3 => {
                let absurd = pick(rng, &ABSURD);
                lines[one] = between(rng, &lines[one], |character| !character.is_ascii_digit(), absurd);
            }
            4 => {
                let odd = pick(
                    rng,
                    &["<!--", "<base href=\"http://127.0.0.1:1/\">", "<script>", "]]>", "<meta charset=utf-16>"],
                );
                lines.insert(one, odd.to_owned());
            }
            _ => {
                let odd = pick(rng, &ODD);
                lines[one] = between(rng, &lines[one], |character| "\"<>#'".contains(character), odd);
            }
        }
    }
    answer.body(lines.join("\n"))
}

/// The text with one of the pieces between separators taken for another.
fn between(rng: &mut Rng, text: &str, separates: impl Fn(char) -> bool, odd: &str) -> String {
    let mut pieces: Vec<(usize, usize)> = Vec::new();
    let mut from = 0;
    for (at, character) in text.char_indices().chain([(text.len(), '\0')]) {
        if at == text.len() || separates(character) {
            if at > from {
                pieces.push((from, at));
            }
            from = at + character.len_utf8();
        }
    }
    match pieces.get(rng.below(pieces.len())) {
        Some((from, to)) => format!("{}{odd}{}", &text[..*from], &text[*to..]),
        None => odd.to_owned(),
    }
}

/// What a page in JSON says is otherwise; one that is in no JSON has other lines.
fn told(rng: &mut Rng, answer: Response) -> Response {
    let Ok(mut page) = serde_json::from_slice::<Value>(&answer.body) else { return lines(rng, answer) };
    for _ in 0..=rng.below(3) {
        change(rng, &mut page);
    }
    let mut text = page.to_string();
    if rng.chance(0.1) {
        // A key that is there twice.
        let key = pick(rng, &["name", "files", "meta", "filename", "url", "hashes", "sha256", "yanked", "versions"]);
        text = text.replacen('{', &format!("{{\"{key}\":{},", odd(rng)), 1 + rng.below(4));
    }
    answer.body(text)
}

/// Changes one value, at any depth.
fn change(rng: &mut Rng, value: &mut Value) {
    let deeper = rng.chance(0.8);
    match value {
        Value::Object(map) if !map.is_empty() => {
            let keys: Vec<String> = map.keys().cloned().collect();
            // Most of what a page says stands in its files.
            let files = keys.iter().find(|key| *key == "files" || *key == "projects").filter(|_| rng.chance(0.6));
            let key = files.unwrap_or(&keys[rng.below(keys.len())]).clone();
            match rng.below(3) {
                _ if deeper => change(rng, &mut map[&key]),
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(pick(rng, &ODD).to_owned(), odd(rng))),
                _ => map[&key] = odd(rng),
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let (one, other) = (rng.below(items.len()), rng.below(items.len()));
            match rng.below(4) {
                _ if deeper => change(rng, &mut items[one]),
                0 => drop(items.remove(one)),
                1 => items.insert(one, items[other].clone()),
                2 => items.insert(one, odd(rng)),
                _ => items.truncate(one),
            }
        }
        _ => *value = odd(rng),
    }
}

/// A value of a kind that is not expected.
fn odd(rng: &mut Rng) -> Value {
    match rng.below(10) {
        0 => Value::Null,
        1 => json!(rng.chance(0.5)),
        2 => json!([]),
        3 => json!({}),
        4 => json!(-1),
        5 => json!(u64::MAX - rng.below(2) as u64),
        6 => json!(9e300),
        7 => json!("x".repeat(rng.below(3000))),
        8 => (0..rng.below(200)).fold(json!(1), |inside, _| json!([inside])),
        _ => json!(pick(rng, &ODD)),
    }
}

/// Another status, with or without what was asked for.
fn status(rng: &mut Rng, mut answer: Response) -> Response {
    answer.status =
        [204, 206, 300, 301, 304, 400, 401, 403, 404, 405, 410, 416, 418, 429, 500, 501, 503, 599][rng.below(18)];
    let answer = if rng.chance(0.5) { answer.body("") } else { answer };
    // A pause that is short enough to be made would cost the test that time.
    let pauses = ["0", "-5", "soon", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"];
    if rng.chance(0.5) { answer.header("Retry-After", pick(rng, &pauses)) } else { answer }
}

/// Another content type.
fn kind(rng: &mut Rng, answer: Response) -> Response {
    let kinds = [
        "",
        "image/png",
        "text/html",
        "text/plain",
        "application/json",
        "application/vnd.pypi.simple.v1+json",
        "application/vnd.pypi.simple.v1+html",
        "application/vnd.pypi.simple.v2+json",
        "text/xml; charset=latin1",
        "application/vnd.pypi.simple.v1+json; charset=utf-16",
    ];
    replaced(answer, "Content-Type", pick(rng, &kinds))
}

/// Packed, as the header says or otherwise.
fn packed(rng: &mut Rng, answer: Response) -> Response {
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap()
    };
    let (body, middle) = (answer.body.clone(), rng.below(answer.body.len()));
    let (encoding, packed) = match rng.below(9) {
        0 => ("gzip", [gzip(&body[..middle]), gzip(&body[middle..])].concat()),
        1 => ("x-gzip", gzip(&body)),
        2 => ("gzip", gzip(&body).split_off(10)),
        3 => ("gzip", body.to_vec()),
        // Not at its end.
        4 => ("gzip", {
            let mut packed = gzip(&body);
            packed.truncate(packed.len() / 2);
            packed
        }),
        5 => ("gzip, gzip", gzip(&gzip(&body))),
        6 => ("br", gzip(&body)),
        7 => {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
            ("deflate", encoder.write_all(&body).and_then(|()| encoder.finish()).unwrap())
        }
        _ => ("gzip", [gzip(&body), b"and more".to_vec()].concat()),
    };
    replaced(answer, "Content-Encoding", encoding).body(packed)
}

/// Written in another charset, as the header says or otherwise.
fn written(rng: &mut Rng, answer: Response) -> Response {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let wide = |order: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(order).collect() };
    let (charset, body) = match rng.below(6) {
        0 => ("utf-16", [vec![0xff, 0xfe], wide(u16::to_le_bytes)].concat()),
        1 => ("utf-16be", wide(u16::to_be_bytes)),
        2 => ("utf-8", wide(u16::to_le_bytes)),
        3 => ("utf-8", [b"\xef\xbb\xbf".to_vec(), text.into_bytes()].concat()),
        4 => ("iso-8859-1", [text.into_bytes(), vec![0xe4, 0xff]].concat()),
        _ => ("no-such-charset", text.into_bytes()),
    };
    let kind = answer.headers.iter().find(|(name, _)| name == "Content-Type").map(|(_, value)| value.clone());
    let kind = kind.unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    replaced(answer, "Content-Type", &format!("{kind}; charset={charset}")).body(body)
}

/// A redirect.
fn redirected(rng: &mut Rng, path: &str) -> Response {
    let to = [
        "/simple/",
        "/simple/p0/",
        "/pypi",
        "/",
        "",
        "ftp://127.0.0.1/",
        "http://127.0.0.1:1/",
        "//",
        "http://[",
        path,
    ];
    Response::new([301, 302, 303, 307, 308][rng.below(5)]).header("Location", pick(rng, &to))
}

/// A header that lies.
fn with_header(rng: &mut Rng, answer: Response) -> Response {
    let longer = (answer.body.len() + 7).to_string();
    let (name, value) = [
        ("Content-Length", longer.as_str()),
        ("Content-Length", "0"),
        ("Content-Length", "-1"),
        ("Content-Length", "99999999999999999999999"),
        ("Transfer-Encoding", "gzip"),
        ("X-PyPI-Last-Serial", "18446744073709551615"),
        ("X-PyPI-Last-Serial", "-7"),
        ("ETag", "no tag at all"),
        ("Content-Range", "bytes 5-6/7"),
        ("Date", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ("", "no name"),
    ][rng.below(11)];
    replaced(answer, name, value)
}

/// What would be right for something else.
fn of_another(rng: &mut Rng, path: &str, answer: Response) -> Response {
    let own = path.trim_matches('/').rsplit('/').next().unwrap_or_default();
    let text = String::from_utf8_lossy(&answer.body);
    match rng.below(4) {
        0 if own.len() > 1 => {
            let body = text.replace(own, "p0");
            answer.body(body)
        }
        1 => answer.body(""),
        2 => answer.body("{\"meta\":{\"api-version\":\"1.0\"},\"name\":\"p0\",\"files\":[],\"versions\":[]}"),
        _ => for_people(),
    }
}
