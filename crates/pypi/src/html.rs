//! Reading the Simple API's HTML (PEPs 503, 592, 629, 714, 740 and 792), for indexes without JSON.
//!
//! What always holds: HTML says neither size nor upload time, so a page read here has none; a link that is no
//! release file and names no digest is not a file; what links to no file and does not say that it is a page of the Simple API
//! is none, because sign-in pages, maintenance pages and listings of directories are HTML, too; no input panics. Tested
//! below.

use strandline_model::{CoreMetadata, Form, Preamble, Serial, Status, UnknownKeys, Yanked};
use strandline_sync::upstream::{Page, Problem};
use url::Url;

use crate::filename::is_release_file;
use crate::listing::{Claim, Context, Listing, MOST_FILES, check_api_version, malformed, status};
use crate::markup::{self, Part, Scripts, Tag};
use crate::url_check::{last_segment, percent_decode, shown};

/// How many elements a page may have, of any kind.
const MOST_TAGS: usize = 10 * MOST_FILES;

/// Reads a page.
pub(crate) fn parse(bytes: &[u8], context: Context<'_>) -> Result<Page, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(format!("the page is not UTF-8: {error}")))?;
    let mut listing = Listing::new(context, Preamble::of(Form::Html));
    let mut base: Option<Url> = None;
    let (mut serial, mut project_status, mut reason) = (None, Status::Active, None);
    let (mut is_page, mut links, mut tags) = (false, 0, 0);
    for part in markup::parts(text, Scripts::Read) {
        tags += usize::from(matches!(part, Part::Start(_)));
        if tags > MOST_TAGS {
            return Err(malformed(format!("the page has more than {MOST_TAGS} tags")));
        }
        match part {
            Part::Start(tag) => match tag.name.as_str() {
                "base" if base.is_none() => {
                    if let Some(href) = tag.get("href") {
                        base = Some(listing.url(context.url, "the page's base", href.trim())?.0);
                    }
                }
                "meta" => match (tag.get("name"), tag.get("content")) {
                    (Some("pypi:repository-version"), Some(version)) => {
                        check_api_version(version)?;
                        is_page = true;
                    }
                    (Some("pypi:project-status"), Some(text)) => project_status = status(text),
                    (Some("pypi:project-status-reason"), Some(text)) => {
                        reason = Some(text.to_owned()).filter(|text| !text.is_empty());
                    }
                    _ => {}
                },
                "a" => {
                    links += 1;
                    if links > MOST_FILES {
                        return Err(malformed(format!("the page has more than {MOST_FILES} links")));
                    }
                    is_page |= add(&mut listing, base.as_ref().unwrap_or(context.url), &tag)?;
                }
                _ => {}
            },
            // As indexes have called their pages since before there was a standard.
            Part::Text(text) => is_page |= text.contains("Links for"),
            Part::Comment(comment) => serial = serial_of(&comment).or(serial),
            Part::End(_) => {}
        }
    }
    if !is_page {
        return Err(malformed(
            "the page is HTML that links to no file and does not say that it is a page of the Simple API (by \
             `pypi:repository-version` or \"Links for\"): it may be a sign-in page, a maintenance page or a listing of a directory"
                .to_owned(),
        ));
    }
    listing.finish(context.project.as_str(), serial, (project_status, reason), None)
}

/// `SERIAL 123`, as the last comment of a page says it.
fn serial_of(comment: &str) -> Option<Serial> {
    comment.trim().strip_prefix("SERIAL ")?.trim().parse().ok()
}

/// Adds the file that a link leads to, and returns whether it leads to one; an error where its digest is not given.
fn add(listing: &mut Listing<'_>, base: &Url, tag: &Tag) -> Result<bool, Problem> {
    let Some(href) = tag.get("href") else { return Ok(false) };
    let href = href.trim_matches([' ', '\t', '\n', '\r', '\x0c']);
    let (path, fragment) = href.split_once('#').unwrap_or((href, ""));
    let last = path.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    // A fragment is a list of `KEY=VALUE`; others than the digest are for installers (`egg`, `subdirectory`).
    let digest = fragment.split('&').find_map(|part| part.strip_prefix("sha256="));
    if digest.is_none() && !is_release_file(last) {
        // A way up, a signature, the index's own navigation.
        return Ok(false);
    }
    let url = listing.url(base, "a link", href).map(|(url, _)| url);
    let filename = url.as_ref().map_or_else(|_| percent_decode(last), last_segment).unwrap_or_default();
    let of = |name: &str| format!("{name} of `{}`", shown(&filename));
    let digest =
        digest.ok_or_else(|| malformed(format!("{} is missing; a file without it is not mirrored", of("#sha256="))))?;
    let sha256 = digest.parse().map_err(|error| malformed(format!("{}: {error}", of("#sha256="))));
    let core_metadata = tag.get("data-core-metadata").or_else(|| tag.get("data-dist-info-metadata"));
    let core_metadata = match core_metadata {
        None => Ok(None),
        Some(text) if text.is_empty() || text == "false" => Ok(None),
        Some(text) => match text.strip_prefix("sha256=").map(str::parse) {
            None => Ok(Some(CoreMetadata::Unhashed)),
            Some(Ok(digest)) => Ok(Some(CoreMetadata::Hashed(digest))),
            Some(Err(error)) => Err(malformed(format!("{}: {error}", of("data-core-metadata")))),
        },
    };
    // No standard has these two, but some indexes do, and a size is what a download is held to.
    let bad = |name: &str, text: &str, what: &str| malformed(format!("{} is `{}`, no {what}", of(name), shown(text)));
    let number = tag.get("data-size").map(|text| text.trim().parse().map_err(|_| bad("data-size", text, "size")));
    let upload_time = tag.get("data-upload-time");
    let upload_time = upload_time.map(|text| text.trim().parse().map_err(|_| bad("data-upload-time", text, "time")));
    let (number, upload_time) = (number.transpose(), upload_time.transpose());
    let claim = Claim {
        needed: url.and_then(|url| Ok((url, sha256?))),
        size: listing.usable(number),
        requires_python: tag.get("data-requires-python").map(str::to_owned),
        upload_time: listing.usable(upload_time),
        yanked: tag.get("data-yanked").map_or(Yanked::No, |reason| Yanked::Yes(reason.to_owned())),
        core_metadata: listing.usable(core_metadata).unwrap_or(CoreMetadata::Absent),
        provenance: tag.get("data-provenance").map(str::to_owned),
        unknown: UnknownKeys::new(),
        filename,
    };
    listing.add(claim);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use strandline_model::{ProjectName, SeenFile, ToldFile};

    use super::*;

    const DIGEST: &str = "9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e";

    const BASE: &str = "https://index.example/simple/six/";

    fn read(text: &str) -> Result<Page, Problem> {
        let project: ProjectName = "six".parse().unwrap();
        let url: Url = BASE.parse().unwrap();
        parse(text.as_bytes(), Context { project: &project, url: &url, local_allowed: false })
    }

    #[test]
    fn sizes_and_times_that_no_standard_has() {
        for (said, size, time) in [
            ("data-size=7 data-upload-time=2024-01-02T03:04:05Z", Some(7), Some("2024-01-02T03:04:05.000000Z")),
            (
                "data-size=' 7 ' data-upload-time='2024-01-02T05:04:05.5+02:00'",
                Some(7),
                Some("2024-01-02T03:04:05.500000Z"),
            ),
            ("data-size=0", Some(0), None),
            ("data-size=-7 data-upload-time=noon", None, None),
            ("data-size=7kB data-upload-time=''", None, None),
            ("data-size=99999999999999999999", None, None),
        ] {
            let page = read(&format!("<a href=six-1.0.tar.gz#sha256={DIGEST} {said}>x</a>")).unwrap();
            let file = page.record.told().files.values().next().unwrap();
            assert_eq!(
                (file.size, file.upload_time.as_ref().map(ToString::to_string).as_deref()),
                (size, time),
                "{said}"
            );
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "all that is read of one page stands here in full")]
    fn everything_that_the_standards_have() {
        let text = format!(
            r#"<!DOCTYPE html><html><head><base href="https://files.example/p/">
            <meta name="pypi:repository-version" content="1.9"><meta name="pypi:project-status" content="deprecated">
            <meta name="pypi:project-status-reason" content="use &quot;seven&quot;"></head><body>
            <A HREF=" six-1.0%2Bb-py3-none-any.whl#sha256={DIGEST} " data-requires-python="&gt;=3.8, &lt;4" data-yanked=""
            data-core-metadata="sha256={DIGEST}" data-provenance="https://index.example/integrity/x">text</A>
            <a href='/six-0.9.tar.gz#sha256={DIGEST}' data-yanked="a &amp; b" data-dist-info-metadata=true>x</a>
            <a href="../">up</a> <a name=x>y</a> <a href="six-1.0.tar.gz.asc">signature</a> <a href="mailto:x@y">mail</a>
            <!-- <a href="six-2.0.tar.gz"> --></body></html><!--SERIAL 42-->"#
        );
        insta::assert_debug_snapshot!(read(&text).unwrap(), @r#"
        Page {
            record: Record {
                told: Told {
                    name: ProjectName(
                        "six",
                    ),
                    quarantined: false,
                    files: {
                        FileName(
                            "six-0.9.tar.gz",
                        ): ToldFile {
                            sha256: Some(
                                ClaimedSha256(9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e),
                            ),
                            size: None,
                            upload_time: None,
                            yanked: Yes(
                                "a & b",
                            ),
                        },
                        FileName(
                            "six-1.0+b-py3-none-any.whl",
                        ): ToldFile {
                            sha256: Some(
                                ClaimedSha256(9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e),
                            ),
                            size: None,
                            upload_time: None,
                            yanked: Yes(
                                "",
                            ),
                        },
                    },
                },
                seen: Seen {
                    display: DisplayName(
                        "six",
                    ),
                    preamble: Preamble {
                        form: Html,
                        namespaces: None,
                        unknown: {},
                        dropped: 0,
                    },
                    maintenance: Deprecated,
                    status_reason: Some(
                        "use \"seven\"",
                    ),
                    versions: [
                        "0.9",
                        "1.0+b",
                    ],
                    files: {
                        FileName(
                            "six-0.9.tar.gz",
                        ): SeenFile {
                            url: Some(
                                "https://files.example/six-0.9.tar.gz",
                            ),
                            query: false,
                            requires_python: None,
                            core_metadata: Unhashed,
                            provenance: None,
                            unknown: {},
                        },
                        FileName(
                            "six-1.0+b-py3-none-any.whl",
                        ): SeenFile {
                            url: Some(
                                "https://files.example/p/six-1.0%2Bb-py3-none-any.whl",
                            ),
                            query: false,
                            requires_python: Some(
                                ">=3.8, <4",
                            ),
                            core_metadata: Hashed(
                                ClaimedSha256(9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e),
                            ),
                            provenance: Some(
                                "https://index.example/integrity/x",
                            ),
                            unknown: {},
                        },
                    },
                },
            },
            serial: Some(
                Serial(
                    42,
                ),
            ),
            queries: {},
            skipped: Skipped {
                named: {},
                count: 0,
            },
        }
        "#);
    }

    #[test]
    fn metadata_has_few_forms() {
        for (attribute, expected) in [
            ("", CoreMetadata::Absent),
            ("data-core-metadata=\"\"", CoreMetadata::Absent),
            ("data-core-metadata=false", CoreMetadata::Absent),
            ("data-core-metadata=true", CoreMetadata::Unhashed),
            ("data-core-metadata=md5=00", CoreMetadata::Unhashed),
            ("data-core-metadata=false data-dist-info-metadata=true", CoreMetadata::Absent),
        ] {
            let page = read(&format!("<a href=six-1.0.zip#sha256={DIGEST} {attribute}>")).unwrap();
            let (.., seen) = page.record.files().next().unwrap();
            assert_eq!(seen.core_metadata, expected, "{attribute}");
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let cases = [
            "<meta name=pypi:repository-version content=2.0>".to_owned(),
            "<a href=six-1.0.tar.gz>".to_owned(),
            "<a href=six-1.0.tar.gz#md5=00>".to_owned(),
            format!("<a href=seven-1.0.tar.gz#sha256={DIGEST}>"),
            format!("<a href=/#sha256={DIGEST}>"),
            "<base href=ftp://files.example/>".to_owned(),
        ];
        let said: Vec<_> = cases.iter().map(|text| read(text).unwrap_err().to_string()).collect();
        insta::assert_snapshot!(said.join("\n"), @"
        the page is of Simple API version `2.0`; this program reads version 1
        #sha256= of `six-1.0.tar.gz` is missing; a file without it is not mirrored
        #sha256= of `six-1.0.tar.gz` is missing; a file without it is not mirrored
        `seven-1.0.tar.gz` cannot be a file of six: its name is another project's
        `` cannot be a file of six: it is not a plain file name
        the page's base: the URL `ftp://files.example/` is neither http nor https
        ");
    }

    #[test]
    fn what_is_no_page_of_the_simple_api() {
        for text in [
            "",
            " \n",
            "<html><head><title>Sign in</title></head><body><form action=/login></form></body></html>",
            "<title>Index of /simple/six/</title><h1>Index of /simple/six/</h1><a href=../>../</a><a href=index.html>x</a>",
            "<h1>503</h1><p>We are back soon. <a href=mailto:x@y>Ask</a>",
            "<!-- pypi:repository-version -->",
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("does not say that it is a page of the Simple API"), "{text}: {error}");
        }
        for text in [
            "<meta name=pypi:repository-version content=1.0>",
            "<title>Links for six</title>",
            "<h1>Links for six</h1>",
        ] {
            assert_eq!(read(text).unwrap().record.files().len(), 0, "{text}");
        }
    }

    #[test]
    fn a_digest_stands_anywhere_in_a_fragment() {
        for fragment in ["sha256={}&egg=six", "egg=six&sha256={}", "egg=six&amp;sha256={}&amp;subdirectory=x"] {
            let page = read(&format!("<a href=\"six-1.0.zip#{}\">", fragment.replace("{}", DIGEST))).unwrap();
            let (_, told, _) = page.record.files().next().unwrap();
            assert_eq!(told.sha256, Some(DIGEST.parse().unwrap()), "{fragment}");
        }
    }

    /// Each case with what the record has of it: nothing, its name alone, or all but a field.
    #[test]
    fn what_cannot_be_used_is_skipped() {
        let good = format!("<a href=six-2.0.tar.gz#sha256={DIGEST}>");
        let whole = (ToldFile::of(DIGEST.parse().unwrap()), SeenFile::at(Some(format!("{BASE}six-1.0.tar.gz"))));
        let named = (ToldFile::named(), SeenFile::at(None));
        let cases = [
            (format!("<a href=seven-1.0.tar.gz#sha256={DIGEST}>"), None),
            (format!("<a href=/#sha256={DIGEST}>"), None),
            ("<a href=six-1.0.tar.gz#sha256=00>".to_owned(), Some(&named)),
            (format!("<a href=a/../six-1.0.tar.gz#sha256={DIGEST}>"), Some(&named)),
            (format!("<a href=http://[::1]/six-1.0.tar.gz#sha256={DIGEST}>"), Some(&named)),
            (format!("<a href=six-1.0.tar.gz#sha256={DIGEST} data-core-metadata=sha256=00>"), Some(&whole)),
            (format!("<a href=six-1.0.tar.gz#sha256={DIGEST} data-provenance=ftp://x/>"), Some(&whole)),
        ];
        let said = cases.iter().map(|(text, expected)| {
            let page = read(&format!("{text}{good}")).unwrap();
            assert_eq!(page.skipped.count(), 1, "{text}");
            let found = page.record.files().find(|(name, ..)| name.as_str() != "six-2.0.tar.gz");
            assert_eq!(found.map(|(_, told, seen)| (told.clone(), seen.clone())), expected.cloned(), "{text}");
            page.skipped.named().first().unwrap().clone()
        });
        insta::assert_snapshot!(said.collect::<Vec<_>>().join("\n"), @"
        `seven-1.0.tar.gz` cannot be a file of six: its name is another project's
        `` cannot be a file of six: it is not a plain file name
        #sha256= of `six-1.0.tar.gz`: `00` is not 64 hexadecimal digits
        a link: the URL `a/../six-1.0.tar.gz#sha256=9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e` escapes upwards by `..`
        a link: the URL `http://[::1]/six-1.0.tar.gz` leads into a private network, where upstream itself is not
        data-core-metadata of `six-1.0.tar.gz`: `00` is not 64 hexadecimal digits
        provenance of `six-1.0.tar.gz`: the URL `ftp://x/` is neither http nor https
        ");
    }

    #[test]
    fn of_a_name_with_two_digests_none_is_used() {
        let other = DIGEST.replace('9', "8");
        let link = |digest: &str| format!("<a href=\"six-1.0.tar.gz#sha256={digest}\">x</a>");
        let page = read(&[link(DIGEST), link(&other)].concat()).unwrap();
        assert_eq!(page.record.files().map(|(_, told, _)| told.sha256).collect::<Vec<_>>(), [None]);
        let named = page.skipped.named().first().unwrap();
        assert!(named.contains(DIGEST) && named.contains(&other), "{named}");
    }

    #[test]
    fn a_page_of_too_many_links_is_none() {
        let links = |count: usize| format!("Links for six{}", "<a href=x>".repeat(count));
        assert!(read(&links(MOST_FILES)).is_ok());
        let tags = |count: usize| format!("Links for six{}", "<b>".repeat(count));
        assert!(read(&tags(MOST_TAGS)).is_ok());
        assert!(read(&tags(MOST_TAGS + 1)).unwrap_err().to_string().contains("more than 1000000 tags"));
        assert!(read(&links(MOST_FILES + 1)).unwrap_err().to_string().contains("more than 100000 links"));
    }

    proptest! {
        #[test]
        fn no_text_panics(parts in proptest::collection::vec(
            prop::sample::select(vec![
                "<a ", "href=", "six-1.0.tar.gz", "#sha256=", DIGEST, ">", "<", "\"", "'", "<base ", "<meta ", "name=",
                "content=", "pypi:repository-version", "<!--", "SERIAL 7", "-->", "&gt;", "&#0;", "..", "/", "\0", "http:", "é",
            ]),
            0..20,
        )) {
            drop(read(&parts.concat()));
        }
    }
}
