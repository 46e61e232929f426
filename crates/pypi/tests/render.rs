//! The pages of a project: as they are, and what holds of them (the numbers of `render.rs`).

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use strandline_model::{
    CoreMetadata, FileName, Form, Format as _, Json, Mirrored, Placed, ProjectName, Record, Rendered, Seen, SeenFile,
    Serial, Sha256, Status, Told, ToldFile, Yanked,
};
use strandline_pypi::Pypi;

fn project() -> ProjectName {
    "zope-interface".parse().expect("a name")
}

/// A file of the project with all that there is to say of it.
type File = (FileName, ToldFile, SeenFile, Placed);

fn file(name: &str) -> File {
    let filename = FileName::of(&project(), name).expect("one of the project");
    let sha256 = Sha256::of(name.as_bytes());
    let told = ToldFile { size: Some(7), ..ToldFile::of(sha256.into()) };
    let seen = SeenFile::at(None);
    let path = format!("packages/ab/cd/ef/{name}").parse().expect("a path");
    (filename, told, seen, Placed { path, sha256, size: 7, metadata: None })
}

/// The same with a metadata file.
fn with_metadata((name, told, seen, placed): File) -> File {
    let sha256 = Sha256::of(b"metadata");
    let seen = SeenFile { core_metadata: CoreMetadata::Hashed(sha256.into()), ..seen };
    (name, told, seen, Placed { metadata: Some(sha256), ..placed })
}

fn mirrored(serial: u64, status: (Status, Option<String>), versions: Vec<String>, files: Vec<File>) -> Mirrored {
    let (status, status_reason) = status;
    let (quarantined, maintenance) = status.parts();
    let mut told = Told { name: project(), quarantined, files: BTreeMap::new() };
    let display = project().as_str().parse().expect("a name");
    let mut seen = Seen { maintenance, status_reason, versions, ..Seen::of(display, Form::Json) };
    let mut placed = BTreeMap::new();
    for (name, told_file, seen_file, placed_file) in files {
        told.files.insert(name.clone(), told_file);
        seen.files.insert(name.clone(), seen_file);
        placed.insert(name, placed_file);
    }
    let record = Record::new(told, seen).expect("its parts go together");
    Mirrored::new(record, Serial::try_from(serial).expect("in range"), placed).expect("its files are what it says")
}

fn record(files: Vec<File>) -> Mirrored {
    mirrored(12, (Status::Active, None), vec!["1.10".to_owned(), "1.9".to_owned()], files)
}

fn text(pages: &[Rendered], file: &str) -> String {
    let page = pages.iter().find(|page| page.path.file_name() == file).expect("one of the three");
    String::from_utf8(page.bytes.to_vec()).expect("text")
}

fn example() -> Mirrored {
    let (name, told, seen, placed) = with_metadata(file("zope.interface-1.10+b-py3-none-any.whl"));
    let upload_time = "2026-01-02T03:04:05.678901Z".parse().ok();
    let told = ToldFile { upload_time, yanked: Yanked::Yes("a < b & 'c'".to_owned()), ..told };
    let provenance = Some("https://index.example/integrity/x".to_owned());
    let seen = SeenFile { requires_python: Some(">=3.8, <\"4\"".to_owned()), provenance, ..seen };
    let mut old = file("Zope.Interface-1.9.tar.gz");
    old.1.yanked = Yanked::Yes(String::new());
    record(vec![(name, told, seen, placed), file("zope_interface-odd.zip"), old])
}

#[test]
fn the_json_page() {
    insta::assert_snapshot!(text(&Pypi.render(&example()), "index.v1_json"), @r#"{"meta":{"api-version":"1.4","_last-serial":12},"name":"zope-interface","project-status":{"status":"active"},"versions":["1.9","1.10"],"files":[{"filename":"zope_interface-odd.zip","url":"../../packages/ab/cd/ef/zope_interface-odd.zip","hashes":{"sha256":"4bd1cd647f3960cba060a7b27ce838a893c321b5a78d88d33529f8f9896b0aec"},"size":7,"yanked":false},{"filename":"Zope.Interface-1.9.tar.gz","url":"../../packages/ab/cd/ef/Zope.Interface-1.9.tar.gz","hashes":{"sha256":"050d7f8b9be059ca0310a78ce546c8eeea55ed81533ba696d7805e94c457456a"},"size":7,"yanked":true},{"filename":"zope.interface-1.10+b-py3-none-any.whl","url":"../../packages/ab/cd/ef/zope.interface-1.10%2Bb-py3-none-any.whl","hashes":{"sha256":"f00ee16e0fa71e9bebc28848d45e7535048c62f22b19bd11c28c99633bbe4c6e"},"requires-python":">=3.8, <\"4\"","size":7,"upload-time":"2026-01-02T03:04:05.678901Z","yanked":"a < b & 'c'","core-metadata":{"sha256":"45447b7afbd5e544f7d0f1df0fccd26014d9850130abd3f020b89ff96b82079f"},"provenance":"https://index.example/integrity/x"}]}"#);
}

#[test]
fn the_html_page() {
    insta::assert_snapshot!(text(&Pypi.render(&example()), "index.html"), @r#"
    <!DOCTYPE html><html><head><meta charset="utf-8"><meta name="pypi:repository-version" content="1.4"><meta name="pypi:project-status" content="active"><title>Links for zope-interface</title></head>
    <body><h1>Links for zope-interface</h1>
    <a href="../../packages/ab/cd/ef/zope_interface-odd.zip#sha256=4bd1cd647f3960cba060a7b27ce838a893c321b5a78d88d33529f8f9896b0aec">zope_interface-odd.zip</a><br>
    <a href="../../packages/ab/cd/ef/Zope.Interface-1.9.tar.gz#sha256=050d7f8b9be059ca0310a78ce546c8eeea55ed81533ba696d7805e94c457456a" data-yanked="">Zope.Interface-1.9.tar.gz</a><br>
    <a href="../../packages/ab/cd/ef/zope.interface-1.10%2Bb-py3-none-any.whl#sha256=f00ee16e0fa71e9bebc28848d45e7535048c62f22b19bd11c28c99633bbe4c6e" data-requires-python="&gt;=3.8, &lt;&quot;4&quot;" data-yanked="a &lt; b &amp; 'c'" data-core-metadata="sha256=45447b7afbd5e544f7d0f1df0fccd26014d9850130abd3f020b89ff96b82079f" data-dist-info-metadata="sha256=45447b7afbd5e544f7d0f1df0fccd26014d9850130abd3f020b89ff96b82079f" data-provenance="https://index.example/integrity/x">zope.interface-1.10+b-py3-none-any.whl</a><br>
    </body></html>
    <!--SERIAL 12-->
    "#);
}

#[test]
fn a_status_and_no_files() {
    let status = (Status::Quarantined, Some("under <review>".to_owned()));
    let pages = Pypi.render(&mirrored(12, status, Vec::new(), Vec::new()));
    insta::assert_snapshot!(text(&pages, "index.v1_json"), @r#"{"meta":{"api-version":"1.4","_last-serial":12},"name":"zope-interface","project-status":{"status":"quarantined","reason":"under <review>"},"versions":[],"files":[]}"#);
    insta::assert_snapshot!(text(&pages, "index.html"), @r#"
    <!DOCTYPE html><html><head><meta charset="utf-8"><meta name="pypi:repository-version" content="1.4"><meta name="pypi:project-status" content="quarantined"><meta name="pypi:project-status-reason" content="under &lt;review&gt;"><title>Links for zope-interface</title></head>
    <body><h1>Links for zope-interface</h1>
    </body></html>
    <!--SERIAL 12-->
    "#);
    let paths: Vec<_> = pages.iter().map(|page| page.path.as_str()).collect();
    let expected = ["index.html", "index.v1_html", "index.v1_json"].map(|file| format!("simple/zope-interface/{file}"));
    assert_eq!(paths, expected);
    assert_eq!(pages[0].bytes, pages[1].bytes);
}

/// The page says what upstream says, `null` too, and no other key that upstream has (PEP 752). HTML has no place for it.
#[test]
fn namespaces_are_in_json_alone() {
    for namespaces in ["null", r#"[{"name": "zope","owned":true,"more":1e999}]"#] {
        let (told, mut seen) = example().record().clone().into_parts();
        seen.preamble.namespaces = Json::of(namespaces);
        seen.preamble.unknown = [("/new".to_owned(), Json::of("1").expect("a number"))].into();
        let placed = example().files().map(|(name, .., placed)| (name.clone(), placed.clone())).collect();
        let serial = example().serial();
        let record = Record::new(told, seen).expect("its parts go together");
        let pages = Pypi.render(&Mirrored::new(record, serial, placed).expect("its files are what it says"));
        let (json, plain) = (text(&pages, "index.v1_json"), Pypi.render(&example()));
        let rest = json.replacen(&format!("\"namespaces\":{namespaces},"), "", 1);
        assert_eq!(rest, text(&plain, "index.v1_json"), "one key more");
        assert_ne!(rest, json);
        assert_eq!(text(&pages, "index.html"), text(&plain, "index.html"));
        assert_eq!(Pypi.render(&Pypi.read(json.as_bytes()).expect("a record")), pages);
    }
}

#[test]
fn what_is_no_record() {
    let json = text(&Pypi.render(&example()), "index.v1_json");
    for (from, to) in [
        ("1.4", "2.0"),
        ("1.4", "1.x"),
        ("active", "odd"),
        ("zope-interface", "Zope-Interface"),
        ("../../packages", "https://index.example/packages"),
        ("../../packages", "../../../packages"),
        ("\"size\":7", "\"size\":-7"),
        ("\"size\":7,", ""),
        ("\"versions\"", "\"other\""),
        ("zope_interface-odd", "six"),
    ] {
        assert!(json.contains(from), "{from}");
        assert!(Pypi.read(json.replace(from, to).as_bytes()).is_err(), "{from} -> {to}");
    }
    assert!(Pypi.read(b"").is_err());
}

#[test]
fn pages_of_each_minor_version_are_read() {
    let (project, json) = (example(), text(&Pypi.render(&example()), "index.v1_json"));
    for version in ["1.0", "1.3", "1.4", "1.5", "1.10"] {
        let read = Pypi.read(json.replace("\"1.4\"", &format!("\"{version}\"")).as_bytes());
        assert_eq!(Pypi.render(&read.unwrap()), Pypi.render(&project), "{version}");
    }
}

fn any_file() -> impl Strategy<Value = File> {
    let name = "(Zope\\.Interface|zope__interface)-([0-9]{1,2}(\\.[0-9]{1,2}){0,2}(rc1)?|[a-z+!%&\"é]{1,4})(\\.tar\\.gz|\\.zip|-py3-none-any\\.whl)";
    let text = "\\PC{0,12}|[\\x00-\\x7f]{0,6}";
    let yanked = prop_oneof![Just(Yanked::No), text.prop_map(Yanked::Yes)];
    let nanoseconds = prop::option::of(0_u32..1_000_000_000);
    let details = (prop::option::of(text), nanoseconds, yanked, prop::option::of(text));
    (name, details, any::<u64>(), any::<bool>()).prop_map(|(name, details, size, metadata)| {
        let (requires_python, seconds, yanked, provenance) = details;
        let upload_time = seconds.and_then(|seconds| format!("2026-01-02T03:04:05.{seconds:09}Z").parse().ok());
        let file = if metadata { with_metadata(file(&name)) } else { file(&name) };
        let (name, told, seen, placed) = file;
        let told = ToldFile { size: Some(size), upload_time, yanked, ..told };
        (name, told, SeenFile { requires_python, provenance, ..seen }, Placed { size, ..placed })
    })
}

/// A project, and the same with its versions in another order.
fn any_project() -> impl Strategy<Value = (Mirrored, Mirrored)> {
    let status = prop::sample::select(vec![Status::Active, Status::Archived, Status::Quarantined, Status::Deprecated]);
    let versions = proptest::collection::vec("[0-9]{1,2}(\\.0){0,2}|[a-z<]{1,3}", 0..6);
    let files = proptest::collection::vec(any_file(), 0..6);
    (status, prop::option::of("\\PC{0,12}"), versions, files, 0..i64::MAX as u64, 0_usize..6).prop_map(
        |(status, reason, versions, files, serial, turn)| {
            let files = if status == Status::Quarantined { Vec::new() } else { files };
            let mut turned = versions.clone();
            turned.rotate_left(turn % versions.len().max(1));
            let of = |versions| mirrored(serial, (status, reason.clone()), versions, files.clone());
            (of(versions), of(turned))
        },
    )
}

/// The links of an HTML page, their text and their digest; cut by hand, so that it is not this crate's reader
/// that judges this crate's writer.
fn links(html: &str) -> Vec<(String, String)> {
    let unescaped =
        |text: &str| text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
    html.split("<a href=\"")
        .skip(1)
        .filter_map(|link| {
            let (_, rest) = link.split_once("#sha256=")?;
            let (digest, rest) = rest.split_at(64);
            let (head, _) = rest.split_once("</a>")?;
            let (_, name) = head.rsplit_once('>')?;
            Some((unescaped(name), digest.to_owned()))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// 1, 2 and 3: the same content has the same pages whatever its order, they are read back as what they were
    /// made from, and both kinds list the same files.
    #[test]
    fn pages_are_a_function_of_the_record((project, turned) in any_project()) {
        let pages = Pypi.render(&project);
        prop_assert_eq!(&Pypi.render(&turned), &pages);

        let json = text(&pages, "index.v1_json");
        let read = Pypi.read(json.as_bytes()).expect("it was made just now");
        prop_assert_eq!(&Pypi.render(&read), &pages);
        let sorted = |project: &Mirrored| {
            let mut versions = project.record().seen().versions.clone();
            versions.sort();
            versions.dedup();
            project.clone().without(&BTreeSet::new(), versions)
        };
        prop_assert_eq!(sorted(&read), sorted(&project));

        let order = |name: &str| json.find(&format!("\"filename\":{}", serde_json::to_string(name).expect("text")));
        let mut from_json: Vec<_> = read
            .files()
            .map(|(name, .., placed)| (name.as_str().to_owned(), placed.sha256.to_string()))
            .collect();
        from_json.sort_by_key(|(name, _)| order(name));
        prop_assert_eq!(links(&text(&pages, "index.html")), from_json);
    }
}
