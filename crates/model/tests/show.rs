//! What readers get of a record: a table of cases.

#![cfg(test)]

use strandline_model::{
    CoreMetadata, FileName, Hidden, Inputs, Maintenance, ProjectName, Record, Releases, Seen, SeenFile, Serial, Sha256,
    Told, ToldFile, Yanked, show,
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
    let told = |file: &&str| {
        let sha256 = Sha256::of(file.as_bytes()).into();
        (name(file), ToldFile { sha256, size: None, upload_time: None, yanked: Yanked::No })
    };
    let seen = |file: &&str| {
        let core_metadata = CoreMetadata::Absent;
        (name(file), SeenFile { url: None, requires_python: None, core_metadata, provenance: None })
    };
    let (told_files, seen_files) = (files.iter().map(told).collect(), files.iter().map(seen).collect());
    let versions = versions.iter().map(|version| (*version).to_owned()).collect();
    let (maintenance, status_reason, display) = (Maintenance::Active, None, "Six".parse().expect("a name"));
    let told = Told { name: six(), quarantined, files: told_files };
    Record::new(told, Seen { display, maintenance, status_reason, versions, files: seen_files }).expect("they fit")
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
fn a_file_of_which_upstream_says_no_digest_is_lacking_by_a_dash() {
    let inputs = inputs(&["lacking six six-1.zip -"]);
    let file = FileName::of(&six(), ONE).expect("a file name");
    assert_eq!(inputs.hides(&six(), &file, None), Some(Hidden::Lacking));
    assert_eq!(inputs.hides(&six(), &FileName::of(&six(), TWO).expect("a file name"), None), None);
}
