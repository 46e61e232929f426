//! What readers get of a record: a table of cases.

#![cfg(test)]

use strandline_model::{
    FileName, Form, Hidden, Inputs, ProjectName, Record, Releases, Seen, SeenFile, Serial, Sha256, Told, ToldFile, show,
};

/// Files are named `six-VERSION.ENDING`.
struct ByName;

impl Releases for ByName {
    fn is_of_release(&self, _: &ProjectName, filename: &str, version: &str) -> Option<bool> {
        Some(filename.starts_with(&format!("six-{version}.")))
    }
}

fn six() -> ProjectName {
    "six".parse().expect("a name")
}

/// A record that names these files, whose bytes are their names, and lists these versions.
fn record(quarantined: bool, files: &[&str], versions: &[&str]) -> Record {
    let name = |name: &&str| FileName::of(&six(), name).expect("a file name");
    let told = |file: &&str| (name(file), ToldFile::of(Sha256::of(file.as_bytes()).into()));
    let seen = |file: &&str| (name(file), SeenFile::at(None));
    let (told_files, seen_files) = (files.iter().map(told).collect(), files.iter().map(seen).collect());
    let versions = versions.iter().map(|version| (*version).to_owned()).collect();
    let told = Told { name: six(), quarantined, files: told_files };
    let seen = Seen { versions, files: seen_files, ..Seen::of("Six".parse().expect("a name"), Form::Json) };
    Record::new(told, seen).expect("they fit")
}

/// Inputs of these lines, in which `{NAME}` stands for the SHA-256 of that file.
fn inputs(lines: &[&str]) -> Inputs {
    let line = |line: &&str| match line.split_once('{') {
        Some((before, name)) => format!("{before}{}\n", Sha256::of(name.trim_end_matches('}').as_bytes())),
        None => format!("{line}\n"),
    };
    let text = "strandline-inputs 2\n".to_owned() + &lines.iter().map(line).collect::<String>();
    let inputs = Inputs::from_bytes(text.as_bytes()).expect("canonical inputs");
    assert_eq!(inputs.to_bytes(), text.as_bytes());
    inputs
}

const ONE: &str = "six-1.zip";
const TWO: &str = "six-2.zip";

/// What is shown of a record: its files, its versions, and whether it is listed.
type Wanted<'a> = (&'a [&'a str], &'a [&'a str], bool);
/// What it is, the files of the record, the lines of the inputs, what is shown, and what is hidden.
type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], Wanted<'a>, &'a [(&'a str, Hidden)]);

#[test]
fn a_table_of_cases() {
    use Hidden::{Lacking, Withdrawn};
    let both: &[&str] = &[ONE, TWO];
    let (all, nothing): (Wanted<'_>, Wanted<'_>) = ((both, &["1", "2"], true), (&[], &[], false));
    let (first, second): (Wanted<'_>, Wanted<'_>) = ((&[ONE], &["1"], true), (&[TWO], &["2"], true));
    // In the order of the digests.
    let mut all_withdrawn = ["withdrawn {six-1.zip}", "withdrawn {six-2.zip}"];
    all_withdrawn.sort_by_key(|line| inputs(&[line]).to_bytes());
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        ("no input", both, &[], all, &[]),
        ("lacking by digest", both, &["lacking six six-2.zip {six-2.zip}"], first, &[(TWO, Lacking)]),
        ("lacking, another file of that name", both, &["lacking six six-2.zip {six-3.zip}"], all, &[]),
        ("lacking, of another project", both, &["lacking six-2 six-2.zip {six-2.zip}"], all, &[]),
        ("lacking by `-`, and upstream says a digest", both, &["lacking six six-2.zip -"], all, &[]),
        ("withdrawn", both, &["withdrawn {six-1.zip}"], second, &[(ONE, Withdrawn)]),
        ("withdrawn, whatever its name", both, &["withdrawn {six-3.zip}"], all, &[]),
        ("lacking and withdrawn", both, &["lacking six six-2.zip {six-2.zip}", "withdrawn {six-2.zip}"], first, &[(TWO, Withdrawn)]),
        ("one lacking, the other withdrawn", both, &["lacking six six-2.zip {six-2.zip}", "withdrawn {six-1.zip}"], nothing, &[(ONE, Withdrawn), (TWO, Lacking)]),
        ("all withdrawn", both, &all_withdrawn, nothing, &[(ONE, Withdrawn), (TWO, Withdrawn)]),
        ("no files", &[], &["lacking six six-2.zip {six-2.zip}", "withdrawn {six-1.zip}"], (&[], &["1", "2"], true), &[]),
    ];
    let serial = Serial::try_from(7).expect("a serial");
    for (case, files, lines, (shown_files, versions, listed), hidden) in cases {
        let record = record(false, files, &["1", "2"]);
        let shown = show(&record, serial, &inputs(lines), &ByName);
        let names: Vec<_> = shown.record.files().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, *shown_files, "{case}: the files");
        assert_eq!(shown.record.seen().versions, *versions, "{case}: the versions");
        assert_eq!(shown.listed, *listed, "{case}: listed");
        assert_eq!(shown.serial, serial, "{case}: the serial");
        let found: Vec<_> = shown.hidden.iter().map(|(name, why)| (name.as_str(), *why)).collect();
        assert_eq!(found, *hidden, "{case}: what is hidden");
    }
}

#[test]
fn a_quarantined_project_is_not_listed() {
    let shown = show(&record(true, &[], &[]), Serial::ZERO, &Inputs::default(), &ByName);
    assert_eq!((shown.listed, shown.hidden.len(), shown.record.told().quarantined), (false, 0, true));
}

#[test]
fn a_release_goes_with_its_last_file() {
    let record = record(false, &[ONE, "six-1.tar.gz", TWO], &["1", "2", "3"]);
    let one_left = show(&record, Serial::ZERO, &inputs(&["withdrawn {six-1.zip}"]), &ByName);
    assert_eq!(one_left.record.seen().versions, ["1", "2", "3"]);
    let none_left = show(&record, Serial::ZERO, &inputs(&["withdrawn {six-2.zip}"]), &ByName);
    assert_eq!(none_left.record.seen().versions, ["1", "3"], "3 has never had a file");
}

#[test]
fn a_file_without_a_digest_or_a_url() {
    let file = FileName::of(&six(), ONE).expect("a file name");
    let url = || SeenFile::at(Some(format!("https://files.example/{ONE}")));
    let digest = Sha256::of(b"its bytes").into();
    let lacking = |sha256| Inputs { lacking: [((six(), file.clone()), sha256)].into(), ..Inputs::default() };
    for (told, seen, inputs, expected) in [
        (ToldFile::of(digest), url(), Inputs::default(), None),
        // Of a page that was read back.
        (ToldFile::of(digest), SeenFile::at(None), Inputs::default(), None),
        // Upstream says no digest: what was measured stands in the unit.
        (ToldFile::named(), url(), Inputs::default(), None),
        (ToldFile::named(), url(), lacking(None), Some(Hidden::Lacking)),
        (ToldFile::named(), url(), lacking(Some(digest)), None),
        (ToldFile::of(digest), url(), lacking(None), None),
        // It is told by its name alone.
        (ToldFile::named(), SeenFile::at(None), Inputs::default(), Some(Hidden::Skipped)),
        (ToldFile::named(), SeenFile::at(None), lacking(None), Some(Hidden::Skipped)),
    ] {
        let case = format!("{told:?} {seen:?} {inputs:?}");
        assert_eq!(inputs.hides(&six(), (&file, &told, &seen)), expected, "{case}");
        let told = Told { name: six(), quarantined: false, files: [(file.clone(), told)].into() };
        let files = [(file.clone(), seen)].into();
        let seen = Seen { files, ..Seen::of("six".parse().expect("a name"), Form::Json) };
        let record = Record::new(told, seen).expect("its parts go together");
        let shown = show(&record, Serial::ZERO, &inputs, &ByName);
        assert_eq!(
            (shown.record.files().len(), shown.listed),
            (usize::from(expected.is_none()), expected.is_none()),
            "{case}"
        );
    }
}
