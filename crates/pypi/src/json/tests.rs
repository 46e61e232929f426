//! Pages in JSON: all that is read of them, what is kept as it came, and what is skipped.

use proptest::prelude::*;
use strandline_model::{ProjectName, SeenFile, ToldFile};
use url::Url;

use super::*;

const DIGEST: &str = "9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e";

fn read(text: &str) -> Result<Page, Problem> {
    let project: ProjectName = "six".parse().unwrap();
    let url: Url = "https://index.example/simple/six/".parse().unwrap();
    parse(text.as_bytes(), Context { project: &project, url: &url, local_allowed: false })
}

/// A page with one file that has these fields besides.
fn with(fields: &str) -> String {
    let file = format!(
        r#"{{"filename":"six-1.0.tar.gz","url":"../../packages/six-1.0.tar.gz","hashes":{{"sha256":"{DIGEST}"}}{fields}}}"#
    );
    page(&file)
}

fn page(files: &str) -> String {
    format!(r#"{{"meta":{{"api-version":"1.0"}},"name":"six","files":[{files}]}}"#)
}

/// Long because all that is read of one page stands here in full.
#[test]
fn everything_that_the_standards_have() {
    let text = format!(
        r#"{{"meta":{{"api-version":"1.4","_last-serial":12,"tracks":[]}},"name":"Six","new":{{"x":[1]}},
        "project-status":{{"status":"archived","reason":"done"}},"versions":["1.10","1.9","1.10"],
        "files":[{{"filename":"six-1.10-py3-none-any.whl","url":"https://files.example/a/six-1.10-py3-none-any.whl#x",
        "hashes":{{"md5":"x","sha256":"{DIGEST}"}},"requires-python":">=3.8","size":11,
        "upload-time":"2026-01-02T03:04:05.678901Z","yanked":"broken <b>","core-metadata":{{"sha256":"{DIGEST}"}},
        "data-dist-info-metadata":false,"provenance":"https://index.example/integrity/x","gpg-sig":true}}]}}"#
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
                        "six-1.10-py3-none-any.whl",
                    ): ToldFile {
                        sha256: Some(
                            ClaimedSha256(9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e),
                        ),
                        size: Some(
                            11,
                        ),
                        upload_time: Some(
                            UploadTime(
                                2026-01-02T03:04:05.678901Z,
                            ),
                        ),
                        yanked: Yes(
                            "broken <b>",
                        ),
                    },
                },
            },
            seen: Seen {
                display: DisplayName(
                    "Six",
                ),
                preamble: Preamble {
                    form: Json,
                    namespaces: None,
                    unknown: {
                        "/meta/tracks": [],
                        "/new": {"x":[1]},
                    },
                    dropped: 0,
                },
                maintenance: Archived,
                status_reason: Some(
                    "done",
                ),
                versions: [
                    "1.9",
                    "1.10",
                ],
                files: {
                    FileName(
                        "six-1.10-py3-none-any.whl",
                    ): SeenFile {
                        url: Some(
                            "https://files.example/a/six-1.10-py3-none-any.whl",
                        ),
                        query: false,
                        requires_python: Some(
                            ">=3.8",
                        ),
                        core_metadata: Hashed(
                            ClaimedSha256(9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e),
                        ),
                        provenance: Some(
                            "https://index.example/integrity/x",
                        ),
                        unknown: {
                            "/gpg-sig": true,
                            "/hashes/md5": "x",
                        },
                    },
                },
            },
        },
        serial: Some(
            Serial(
                12,
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
fn fields_have_few_forms() {
    let first = |fields: &str| {
        let record = read(&with(fields)).unwrap().record;
        let (_, told, seen) = record.files().next().unwrap();
        (told.clone(), seen.clone())
    };
    for (fields, yanked) in [
        ("", Yanked::No),
        (r#","yanked":false"#, Yanked::No),
        (r#","yanked":"""#, Yanked::No),
        (r#","yanked":null"#, Yanked::No),
        (r#","yanked":true"#, Yanked::Yes(String::new())),
        (r#","yanked":"why""#, Yanked::Yes("why".to_owned())),
    ] {
        assert_eq!(first(fields).0.yanked, yanked, "{fields}");
    }
    let hashed = format!(r#"{{"sha256":"{DIGEST}"}}"#);
    let digest = CoreMetadata::Hashed(DIGEST.parse().unwrap());
    for (fields, metadata) in [
        (r#","core-metadata":true"#.to_owned(), CoreMetadata::Unhashed),
        (r#","core-metadata":{"md5":"x"}"#.to_owned(), CoreMetadata::Unhashed),
        (format!(r#","core-metadata":false,"dist-info-metadata":{hashed}"#), CoreMetadata::Absent),
        (format!(r#","core-metadata":{hashed}"#), digest),
        (format!(r#","dist-info-metadata":{hashed}"#), digest),
        (format!(r#","data-dist-info-metadata":{hashed}"#), digest),
    ] {
        assert_eq!(first(&fields).1.core_metadata, metadata, "{fields}");
    }
    assert_eq!(first(r#","upload-time":"yesterday""#).0.upload_time, None);
    assert_eq!(first(r#","requires-python":"""#).1.requires_python, None);
}

/// Neither a number that no computer counts with nor a value as deep as the page is long makes a page bad.
#[test]
fn what_is_not_known_is_kept_as_it_came() {
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let text = with(r#","sizes":{"b":1e999, "a":[1.50]},"odd/~é":null,"odd/~é":0,"yanked":false"#);
    let text = text.replacen("\"name\"", &format!("\"deep\": {deep} ,\"name\""), 1);
    let page = read(&text).unwrap();
    let seen = page.record.seen();
    let of_page: Vec<_> = seen.preamble.unknown.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!((of_page, seen.preamble.dropped), (vec![("/deep", &*deep)], 0));
    let of_file: Vec<_> = seen.files.values().flat_map(|file| &file.unknown).collect();
    let of_file: Vec<_> = of_file.into_iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(of_file, [("/odd~1~0é", "0"), ("/sizes", r#"{"b":1e999, "a":[1.50]}"#)]);
    let page = read(&text.replacen("[[", &"[[".repeat(10_000), 1).replacen("]]", &"]]".repeat(10_000), 1)).unwrap();
    assert_eq!((page.record.seen().preamble.unknown.len(), page.record.seen().preamble.dropped), (0, 1), "too much");
}

/// A signed URL has another query at every request. The query stands beside the record, whose parts are equal then.
#[test]
fn a_query_is_no_part_of_the_record() {
    let page = |query: &str| {
        let text = with(r#","provenance":"https://index.example/x?secret""#);
        read(&text.replacen("six-1.0.tar.gz\",\"hashes", &format!("six-1.0.tar.gz{query}#x\",\"hashes"), 1)).unwrap()
    };
    let (one, other, none) = (page("?sig=1"), page("?sig=2"), page(""));
    let file = |page: &Page| page.record.files().next().map(|(name, _, seen)| (name.clone(), seen.clone())).unwrap();
    let (name, seen) = file(&one);
    let url = "https://index.example/packages/six-1.0.tar.gz";
    assert_eq!((seen.url.as_deref(), seen.query, seen.provenance), (Some(url), true, None));
    assert_eq!(one.url(&name).unwrap(), format!("{url}?sig=1"));
    assert_eq!(one.record, other.record);
    assert_ne!(one.record, none.record, "a mark says that there was one");
    assert_eq!((none.url(&name).as_deref(), file(&none).1.query), (Some(url), false));
}

#[test]
fn namespaces_are_kept_as_they_came() {
    let with = |namespaces: &str| {
        read(&format!(r#"{{"meta":{{"api-version":"1.5"}},"name":"six","namespaces":{namespaces},"files":[]}}"#))
    };
    for good in ["null", "[]", r#"[{"name":"six", "owned":false, "since":2026}]"#] {
        let page = with(good).unwrap();
        let preamble = &page.record.seen().preamble;
        assert_eq!(preamble.namespaces.as_ref().map(Json::as_str), Some(good));
        assert!(preamble.unknown.is_empty(), "it is known");
    }
    for bad in ["7", "{}", r#"["six"]"#, r#"[{"name":"six"}]"#] {
        let page = with(bad).unwrap();
        let said = page.skipped.named().first().unwrap();
        assert!(said.contains("namespaces is `") && said.contains("expected null or a list"), "{said}");
        assert_eq!(page.record.seen().preamble, Preamble::of(Form::Json));
    }
}

#[test]
fn serials_are_numbers_or_texts_of_them() {
    for (serial, expected) in [("7", Some(7)), ("\"7\"", Some(7)), ("null", None)] {
        let text = format!(r#"{{"meta":{{"api-version":"1.1","_last-serial":{serial}}},"name":"six","files":[]}}"#);
        assert_eq!(read(&text).unwrap().serial.map(Serial::get), expected);
    }
}

#[test]
fn versions_come_from_the_files_where_the_page_has_none() {
    assert_eq!(read(&with("")).unwrap().record.seen().versions, ["1.0"]);
}

#[test]
fn a_quarantined_project_has_no_files() {
    let text = with("").replacen("\"name\"", "\"project-status\":{\"status\":\"quarantined\"},\"name\"", 1);
    let page = read(&text).unwrap();
    assert_eq!((page.record.status(), page.record.files().len()), (Status::Quarantined, 0));
}

#[test]
fn errors_name_what_is_wrong() {
    let foreign = r#"{"filename":"seven-1.0.tar.gz","url":"x","hashes":{"sha256":"00"}}"#;
    let cases = [
        String::new(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        "{\"meta\":[\"1.0\"]}".to_owned(),
        r#"{"meta":{"api-version":"2.0"},"name":"six","files":[]}"#.to_owned(),
        r#"{"meta":{"api-version":1},"name":"six","files":[]}"#.to_owned(),
        r#"{"meta":{"api-version":"1.0","_last-serial":-1},"name":"six","files":[]}"#.to_owned(),
        r#"{"meta":{"api-version":"1.0"},"name":"seven","files":[]}"#.to_owned(),
        r#"{"meta":{"api-version":"1.0"},"name":"six"}"#.to_owned(),
        r#"{"meta":{"api-version":"1.0"},"name":"six","files":{}}"#.to_owned(),
        r#"{"meta":{"api-version":"1.0"},"name":"six","versions":[1],"files":[]}"#.to_owned(),
        page(r#"{"filename":"six-1.0.tar.gz","url":"x"}"#),
        page(r#"{"filename":"six-1.0.tar.gz","url":"x","hashes":{"md5":"00"}}"#),
        page(&[foreign, "7"].join(",")),
    ];
    let said: Vec<_> = cases.iter().map(|text| read(text).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    the page is not JSON: EOF while parsing a value at line 1 column 0
    the page is `null`; expected an object
    the page is `[]`; expected an object
    meta is missing; expected an object
    meta is `["1.0"]`; expected an object
    the page is of Simple API version `2.0`; this program reads version 1
    meta.api-version is `1`; expected a text such as `1.4`
    meta._last-serial is `-1`; expected a number
    the page is that of `seven`, not of `six`
    files is missing; expected a list of objects
    files is `{}`; expected a list of objects
    versions is `[1]`; expected a list of texts
    hashes.sha256 of `six-1.0.tar.gz` is missing; a file without it is not mirrored
    hashes.sha256 of `six-1.0.tar.gz` is missing; a file without it is not mirrored
    `seven-1.0.tar.gz` cannot be a file of six: its name is another project's
    "#);
}

/// What is skipped of a page that has these files and a good one.
fn skipped(files: &str) -> (Page, String) {
    let url = "../../packages/six-2.0.tar.gz";
    let good = format!(r#"{{"filename":"six-2.0.tar.gz","url":"{url}","hashes":{{"sha256":"{DIGEST}"}}}}"#);
    let page = read(&page(&[files, &good].join(","))).unwrap();
    assert!(page.record.told().files.contains_key("six-2.0.tar.gz"), "the good one stays");
    assert_eq!(page.skipped.count(), 1, "{files}");
    let said = page.skipped.named().iter().cloned().collect();
    (page, said)
}

fn file(name: &str, url: &str, digest: &str) -> String {
    format!(r#"{{"filename":"{name}","url":"{url}","hashes":{{"sha256":"{digest}"}},"yanked":true,"new":1}}"#)
}

const GOOD: &str = "https://files.example/six-1.0.tar.gz";

#[test]
fn of_a_name_with_several_digests_none_is_used() {
    let of = |digits: [char; 3]| {
        let files = digits.map(|digit| file("six-1.0.tar.gz", GOOD, &DIGEST.replace('9', &digit.to_string())));
        let page = read(&page(&files.join(","))).unwrap();
        let (_, told, _) = page.record.files().next().unwrap();
        (told.sha256.is_some(), page.skipped.count())
    };
    assert_eq!(of(['9', '9', '9']), (true, 0));
    for digits in [['9', '8', '9'], ['9', '9', '8'], ['8', '7', '6'], ['9', '8', '8']] {
        assert!(matches!(of(digits), (false, 1 | 2)), "{digits:?}");
    }
}

/// A file whose name is good stands there by its name alone, whatever else is said of it.
#[test]
fn a_file_that_cannot_be_had_is_told_by_its_name() {
    let name = "six-1.0.tar.gz";
    let twice = [file(name, GOOD, DIGEST), file(name, GOOD, &DIGEST.replace('9', "8"))].join(",");
    let cases = [
        twice,
        file(name, GOOD, "00"),
        format!(r#"{{"filename":"{name}","url":"{GOOD}","hashes":7}}"#),
        format!(r#"{{"filename":"{name}","url":"{GOOD}","hashes":{{"sha256":7}}}}"#),
        format!(r#"{{"filename":"{name}","hashes":{{"sha256":"{DIGEST}"}}}}"#),
        file(name, "ftp://files.example/x", DIGEST),
        file(name, "https://files.example/%2e%2e/x", DIGEST),
        file(name, "https://user:secret@files.example/x", DIGEST),
        file(name, "http://169.254.169.254/x", DIGEST),
        file("six-1.0-variants.json", "", DIGEST),
    ];
    let said = cases.iter().map(|text| {
        let (page, said) = skipped(text);
        let (_, told, seen) = page.record.files().next().unwrap();
        assert_eq!((told, seen), (&ToldFile::named(), &SeenFile::at(None)), "{text}");
        assert_eq!(page.record.files().len(), 2, "{text}");
        said
    });
    insta::assert_snapshot!(said.collect::<Vec<_>>().join("\n"), @"
    `six-1.0.tar.gz` stands on the page twice, and not with one digest: 9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e and 8f1a3c5e7b8d0f2a4c6e8b0d1f3a5c7e8f1a3c5e7b8d0f2a4c6e8b0d1f3a5c7e
    hashes.sha256 of `six-1.0.tar.gz`: `00` is not 64 hexadecimal digits
    hashes of `six-1.0.tar.gz` is `7`; expected an object
    hashes.sha256 of `six-1.0.tar.gz` is `7`; expected a text
    url of `six-1.0.tar.gz` is missing; expected a text
    url of `six-1.0.tar.gz`: the URL `ftp://files.example/x` is neither http nor https
    url of `six-1.0.tar.gz`: the URL `https://files.example/%2e%2e/x` holds `%2e`
    url of `six-1.0.tar.gz`: a URL on files.example holds credentials
    url of `six-1.0.tar.gz`: the URL `http://169.254.169.254/x` leads into a private network, where upstream itself is not
    url of `six-1.0-variants.json`: the URL `` is empty
    ");
}

#[test]
fn a_file_that_has_no_usable_name_is_in_no_record() {
    let cases = [
        "7".to_owned(),
        "null".to_owned(),
        "{}".to_owned(),
        file("../six-1.0.tar.gz", GOOD, DIGEST),
        file("six-1.0\\u0000.tar.gz", GOOD, DIGEST),
        file("seven-1.0.tar.gz", GOOD, DIGEST),
        file("six-1.0.tar.gz.metadata", GOOD, DIGEST),
    ];
    let said = cases.iter().map(|text| {
        let (page, said) = skipped(text);
        assert_eq!(page.record.files().len(), 1, "{text}");
        said
    });
    insta::assert_snapshot!(said.collect::<Vec<_>>().join("\n"), @r#"
    files[0] is `7`; expected an object
    files[0] is `null`; expected an object
    files[0].filename is missing; expected a text
    `../six-1.0.tar.gz` cannot be a file of six: it is not a plain file name
    `six-1.0\0.tar.gz` cannot be a file of six: it is not a plain file name
    `seven-1.0.tar.gz` cannot be a file of six: its name is another project's
    `six-1.0.tar.gz.metadata` cannot be a release file: its ending is taken
    "#);
}

#[test]
fn a_bad_field_is_left_out_alone() {
    let cases = [
        r#""size":-1"#,
        r#""size":"1""#,
        r#""size":9007199254740992"#,
        r#""upload-time":"yesterday""#,
        r#""requires-python":[3]"#,
        r#""yanked":7"#,
        r#""core-metadata":7"#,
        r#""core-metadata":{"sha256":"00"}"#,
        r#""provenance":"file:///x""#,
        r#""provenance":"https://index.example/x?y""#,
    ];
    let said = cases.iter().map(|field| {
        let text = file("six-1.0.tar.gz", GOOD, DIGEST).replacen(r#""yanked":true,"new":1"#, field, 1);
        let (page, said) = skipped(&text);
        let (_, told, seen) = page.record.files().next().unwrap();
        let plain = (ToldFile::of(DIGEST.parse().unwrap()), SeenFile::at(Some(GOOD.to_owned())));
        assert_eq!((told, seen), (&plain.0, &plain.1), "{field}");
        said
    });
    insta::assert_snapshot!(said.collect::<Vec<_>>().join("\n"), @r#"
    size of `six-1.0.tar.gz` is `-1`; expected a number of bytes
    size of `six-1.0.tar.gz` is `"1"`; expected a number of bytes
    size of `six-1.0.tar.gz` is `9007199254740992`, which is no size of a file
    upload-time of `six-1.0.tar.gz` is `yesterday`, no time
    requires-python of `six-1.0.tar.gz` is `[3]`; expected a text
    yanked of `six-1.0.tar.gz` is `7`; expected true, false or a text
    core-metadata of `six-1.0.tar.gz` is `7`; expected an object
    sha256 in core-metadata of `six-1.0.tar.gz`: `00` is not 64 hexadecimal digits
    provenance of `six-1.0.tar.gz`: the URL `file:///x` is neither http nor https
    provenance of `six-1.0.tar.gz` has a query
    "#);
}

#[test]
fn what_is_skipped_is_counted_and_not_all_of_it_is_named() {
    let many: Vec<_> = (0..100).map(|number| file(&format!("six-{number}.0.tar.gz"), "", DIGEST)).collect();
    let page = read(&page(&many.join(","))).unwrap();
    assert_eq!((page.skipped.count(), page.skipped.named().len()), (100, 32));
}

#[test]
fn a_page_of_too_many_parts_is_none() {
    let of = |count: usize, part: &str| vec![part; count].join(",");
    let whole = |rest: &str| read(&format!(r#"{{"meta":{{"api-version":"1.4"}},"name":"six",{rest}}}"#));
    let said = |rest: &str| whole(rest).unwrap_err().to_string();
    let versions = |count| format!(r#""files":[],"versions":[{}]"#, of(count, r#""1""#));
    assert!(said(&versions(100_001)).contains("more than 100000 elements"));
    assert!(said(&format!(r#""files":[{}]"#, of(100_001, "0"))).contains("more than 100000 elements"));
    let page_of_keys = format!("{{{}}}", of(4_097, r#""":0"#));
    assert!(read(&page_of_keys).unwrap_err().to_string().contains("more than 4096 keys"));
    // As many as that are read; a file with more keys is skipped, and no other.
    assert_eq!(whole(&versions(100_000)).unwrap().record.seen().versions, ["1"]);
    let good = format!(r#"{{"filename":"six-1.tar.gz","url":"six-1.tar.gz","hashes":{{"sha256":"{DIGEST}"}}}}"#);
    let read = read(&page(&format!(r#"{good},{{"filename":"six-2.tar.gz",{}}}"#, of(4_096, r#""":0"#)))).unwrap();
    assert_eq!((read.record.files().len(), read.skipped.count()), (1, 1));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let project: ProjectName = "six".parse().unwrap();
        let url: Url = "https://index.example/simple/six/".parse().unwrap();
        drop(parse(&bytes, Context { project: &project, url: &url, local_allowed: false }));
    }

    #[test]
    fn no_changed_page_panics(at in 0_usize..400, len in 0_usize..20, with_text in "[\\[\\]{}\",:0-9a-z\\\\-]{0,8}") {
        let mut text = with(r#","size":7,"yanked":"x","core-metadata":true,"upload-time":"2026-01-01T00:00:00Z""#);
        let at = at.min(text.len());
        let end = (at + len).min(text.len());
        text.replace_range(at..end, &with_text);
        drop(read(&text));
    }
}
