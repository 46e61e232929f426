//! Reading the Simple API's JSON (PEPs 691, 700, 714, 592, 740 and 792).
//!
//! What always holds: fields that are not known are kept as they came; a field of a wrong shape is named with its file, and
//! left out if it is one of a file; no input panics or recurses without bound, or takes much more memory than it is long. Tested
//! below.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use strandline_model::{ClaimedSha256, CoreMetadata, Form, Json, Preamble, Serial, Status, UploadTime, Yanked};
use strandline_sync::upstream::{Page, Problem};

use crate::listing::{Claim, Context, Listing, MOST_FILES, check_api_version, malformed, status};
use crate::url_check::shown;

/// A field as it stands on the page; `None` where it is absent or null.
pub(crate) type Raw<'a> = Option<&'a RawValue>;

#[derive(Deserialize)]
struct RawStatus<'a> {
    #[serde(borrow, default)]
    status: Raw<'a>,
    #[serde(borrow, default)]
    reason: Raw<'a>,
}

/// How many keys an object may have, and how many versions a project: a page of nothing else would be many times its size in
/// memory.
const MOST_KEYS: usize = 4_096;
const MOST_VERSIONS: usize = 100_000;

/// A list of at most so many elements.
pub(crate) struct List<T, const MOST: usize>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Elements<T, MOST> {
            type Value = List<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MOST} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    if list.len() == MOST {
                        return Err(A::Error::custom(format_args!("{TOO_MANY} {MOST} elements")));
                    }
                    list.push(element);
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

/// How the error begins that says that something has too many parts.
const TOO_MANY: &str = "it has more than";

/// An object whose keys are taken one after the other; what is left then is not known.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Takes the value of a key; the last one where the key stands there twice.
    fn take(&mut self, key: &str) -> Raw<'a> {
        self.take_even_null(key).filter(|value| value.get() != "null")
    }

    fn take_even_null(&mut self, key: &str) -> Raw<'a> {
        let mut found = None;
        while let Some(at) = self.0.iter().position(|(own, _)| own == key) {
            found = Some(self.0.remove(at).1);
        }
        found
    }

    /// The keys that were not taken, each by its JSON pointer, which begins with `place`.
    fn left(self, place: &str) -> impl Iterator<Item = (String, Json)> {
        let pointer = move |key: &str| format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"));
        self.0.into_iter().map(move |(key, value)| (pointer(&key), value.into()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        #[derive(Deserialize)]
        struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                // A file mostly has fewer.
                let mut pairs = Vec::with_capacity(12);
                while let Some((Key(key), value)) = map.next_entry()? {
                    if pairs.len() == MOST_KEYS {
                        return Err(A::Error::custom(format_args!("{TOO_MANY} {MOST_KEYS} keys")));
                    }
                    pairs.push((key, value));
                }
                Ok(Object(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[derive(Deserialize)]
struct RawHashes<'a> {
    #[serde(borrow, default)]
    sha256: Raw<'a>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FlagOrText {
    Flag(bool),
    Text(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

/// Reads a page.
pub(crate) fn parse(bytes: &[u8], context: Context<'_>) -> Result<Page, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(format!("the page is not UTF-8: {error}")))?;
    let page = serde_json::from_str(text).map_err(|error| malformed(format!("the page is not JSON: {error}")))?;
    let mut page: Object<'_> = object("the page", Some(page))?.ok_or_else(|| malformed("the page is `null`"))?;
    let mut meta: Object<'_> =
        object("meta", page.take("meta"))?.ok_or_else(|| malformed("meta is missing; expected an object"))?;
    check_api_version(&required::<String>("meta.api-version", "a text such as `1.4`", meta.take("api-version"))?)?;
    let serial = serial("meta._last-serial", meta.take("_last-serial"))?;
    let name: String = required("name", "a text", page.take("name"))?;
    let status = match object::<RawStatus<'_>>("project-status", page.take("project-status"))? {
        None => (Status::Active, None),
        Some(raw) => {
            let text: Option<String> = optional("project-status.status", "a text", raw.status)?;
            let reason: Option<String> = optional("project-status.reason", "a text", raw.reason)?;
            (text.map_or(Status::Active, |text| status(&text)), reason.filter(|text| !text.is_empty()))
        }
    };
    let versions: Option<List<String, MOST_VERSIONS>> = optional("versions", "a list of texts", page.take("versions"))?;
    let List(files): List<&RawValue, MOST_FILES> = required("files", "a list of objects", page.take("files"))?;
    let raw_namespaces = page.take_even_null("namespaces");
    let unknown = page.left("").chain(meta.left("/meta")).collect();
    let mut listing = Listing::new(context, Preamble { unknown, ..Preamble::of(Form::Json) });
    listing.preamble.namespaces = listing.usable(raw_namespaces.map(namespaces).transpose());
    for (index, file) in files.into_iter().enumerate() {
        let name = format!("files[{index}]");
        let file =
            object(&name, Some(file)).and_then(|file| file.ok_or_else(|| malformed(format!("{name} is `null`"))));
        match file.and_then(|file| filename(&name, file)) {
            Ok((filename, file)) => add(&mut listing, context, filename, file)?,
            Err(problem) => listing.skip_nameless(problem.to_string()),
        }
    }
    listing.finish(&name, serial, status, versions.map(|List(versions)| versions))
}

/// The namespaces that a project is in, as they came (PEP 752).
fn namespaces(raw: &RawValue) -> Result<Json, Problem> {
    #[derive(Deserialize)]
    struct Namespace {
        #[serde(rename = "name")]
        _name: String,
        #[serde(rename = "owned")]
        _owned: bool,
    }
    let expected = "null or a list of objects with `name` and `owned`";
    optional::<Option<Vec<Namespace>>>("namespaces", expected, Some(raw)).map(drop)?;
    Ok(raw.into())
}

/// The name of a file, and what else is said of it.
fn filename<'a>(place: &str, mut raw: Object<'a>) -> Result<(String, Object<'a>), Problem> {
    Ok((required(&format!("{place}.filename"), "a text", raw.take("filename"))?, raw))
}

/// Adds a file; an error where its digest is not given.
fn add(listing: &mut Listing<'_>, context: Context<'_>, filename: String, mut raw: Object<'_>) -> Result<(), Problem> {
    let of = |name: &str| format!("{name} of `{}`", shown(&filename));
    let missing = || malformed(format!("{} is missing; a file without it is not mirrored", of("hashes.sha256")));
    let hashes: Result<Option<Object<'_>>, _> = object(&of("hashes"), raw.take("hashes"));
    let (sha256, hashes) = match hashes {
        Ok(mut hashes) => {
            let sha256 = hashes.as_mut().and_then(|hashes| hashes.take("sha256")).ok_or_else(missing)?;
            (digest(&of("hashes.sha256"), Some(sha256)).and_then(|sha256| sha256.ok_or_else(missing)), hashes)
        }
        Err(problem) => (Err(problem), None),
    };
    let url = required(&of("url"), "a text", raw.take("url"));
    let url = url.and_then(|text: String| Ok(listing.url(context.url, &of("url"), &text)?.0));
    let upload_time = upload_time(&of("upload-time"), raw.take("upload-time"));
    let yanked = match listing.usable(optional(&of("yanked"), "true, false or a text", raw.take("yanked"))) {
        None | Some(FlagOrText::Flag(false)) => Yanked::No,
        Some(FlagOrText::Flag(true)) => Yanked::Yes(String::new()),
        // PEP 691 asks for a truthy value, and an empty text is none.
        Some(FlagOrText::Text(reason)) if reason.is_empty() => Yanked::No,
        Some(FlagOrText::Text(reason)) => Yanked::Yes(reason),
    };
    let core_metadata = ["core-metadata", "dist-info-metadata", "data-dist-info-metadata"];
    let core_metadata = core_metadata.map(|name| (name, raw.take(name)));
    let core_metadata = core_metadata.into_iter().find_map(|(name, raw)| raw.map(|raw| metadata(&of(name), raw)));
    let claim = Claim {
        needed: url.and_then(|url| Ok((url, sha256?))),
        size: listing.usable(optional(&of("size"), "a number of bytes", raw.take("size"))),
        requires_python: listing.usable(optional(&of("requires-python"), "a text", raw.take("requires-python"))),
        upload_time: listing.usable(upload_time),
        yanked,
        core_metadata: listing.usable(core_metadata.transpose()).unwrap_or(CoreMetadata::Absent),
        provenance: listing.usable(optional(&of("provenance"), "a text", raw.take("provenance"))),
        unknown: raw.left("").chain(hashes.into_iter().flat_map(|hashes| hashes.left("/hashes"))).collect(),
        filename,
    };
    listing.add(claim);
    Ok(())
}

fn upload_time(name: &str, raw: Raw<'_>) -> Result<Option<UploadTime>, Problem> {
    let text: Option<String> = optional(name, "a text", raw)?;
    let read = |text: String| text.parse().map_err(|_| malformed(format!("{name} is `{}`, no time", shown(&text))));
    text.map(read).transpose()
}

/// Whether there is a metadata file, and what it should be.
pub(crate) fn metadata(name: &str, raw: &RawValue) -> Result<CoreMetadata, Problem> {
    match raw.get() {
        "false" => Ok(CoreMetadata::Absent),
        "true" => Ok(CoreMetadata::Unhashed),
        _ => {
            let hashes: Option<RawHashes<'_>> = object(name, Some(raw))?;
            let digest = digest(&format!("sha256 in {name}"), hashes.and_then(|hashes| hashes.sha256))?;
            Ok(digest.map_or(CoreMetadata::Unhashed, CoreMetadata::Hashed))
        }
    }
}

/// Reads a digest, if it is there.
pub(crate) fn digest(name: &str, raw: Raw<'_>) -> Result<Option<ClaimedSha256>, Problem> {
    let text: Option<String> = optional(name, "a text", raw)?;
    text.map(|text| text.parse().map_err(|error| malformed(format!("{name}: {error}")))).transpose()
}

/// A serial, as a number or the text of one.
pub(crate) fn serial(name: &str, raw: Raw<'_>) -> Result<Option<Serial>, Problem> {
    let wrong = |found: &str| malformed(format!("{name} is `{}`, not a serial", shown(found)));
    match optional(name, "a number", raw)? {
        None => Ok(None),
        Some(NumberOrText::Number(number)) => {
            Serial::try_from(number).map(Some).map_err(|_| wrong(&number.to_string()))
        }
        Some(NumberOrText::Text(text)) => text.parse().map(Some).map_err(|_| wrong(&text)),
    }
}

/// Reads an object, if it is there. A list is none, though serde would read one as the fields in their order.
pub(crate) fn object<'a, T: Deserialize<'a>>(name: &str, raw: Raw<'a>) -> Result<Option<T>, Problem> {
    match raw {
        Some(raw) if !raw.get().starts_with('{') => {
            let found: String = raw.get().chars().take(60).collect();
            Err(malformed(format!("{name} is `{}`; expected an object", shown(&found))))
        }
        raw => optional(name, "an object", raw),
    }
}

/// Reads a field that has to be there.
pub(crate) fn required<'a, T: Deserialize<'a>>(name: &str, expected: &str, raw: Raw<'a>) -> Result<T, Problem> {
    optional(name, expected, raw)?.ok_or_else(|| malformed(format!("{name} is missing; expected {expected}")))
}

/// Reads a field, if it is there.
pub(crate) fn optional<'a, T: Deserialize<'a>>(name: &str, expected: &str, raw: Raw<'a>) -> Result<Option<T>, Problem> {
    raw.map(|raw| {
        serde_json::from_str(raw.get()).map_err(|error| {
            let found: String = raw.get().chars().take(60).collect();
            // serde's message about a choice between shapes says less than the text that was found.
            let why = error.to_string();
            let why = if error.is_data() && !why.starts_with(TOO_MANY) { String::new() } else { format!(" ({why})") };
            malformed(format!("{name} is `{}`{why}; expected {expected}", shown(&found)))
        })
    })
    .transpose()
}

#[cfg(test)]
mod tests;
