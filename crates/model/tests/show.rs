//! What is shown of each kind of file, whatever the inputs say of it.

#![cfg(test)]

use std::collections::BTreeMap;

use strandline_model::{
    ClaimedSha256, FileName, Form, Hidden, Inputs, ProjectName, Record, Releases, Seen, SeenFile, Sha256, Shown, Told,
    ToldFile, show,
};

const FILE: &str = "six-1.0.tar.gz";

struct NoReleases;

impl Releases for NoReleases {
    fn is_of_release(&self, _: &ProjectName, _: &str, _: &str) -> Option<bool> {
        None
    }
}

fn six() -> ProjectName {
    "six".parse().expect("a name")
}

fn file() -> FileName {
    FileName::of(&six(), FILE).expect("a file name")
}

fn digest(of: &str) -> ClaimedSha256 {
    Sha256::of(of.as_bytes()).into()
}

/// What is shown of a project of one file.
fn shown(told: ToldFile, seen: SeenFile, inputs: &Inputs) -> Shown {
    let told = Told { name: six(), quarantined: false, files: BTreeMap::from([(file(), told)]) };
    let files = BTreeMap::from([(file(), seen)]);
    let seen = Seen { files, ..Seen::of("six".parse().expect("a name"), Form::Json) };
    show(&Record::new(told, seen).expect("its parts go together"), inputs, &NoReleases)
}

#[test]
fn why_a_file_is_not_shown() {
    let url = || SeenFile::at(Some(format!("https://files.example/{FILE}")));
    let with_digest = || ToldFile::of(digest("its bytes"));
    let lacking = |sha256| Inputs { lacking: [((six(), file()), sha256)].into(), ..Inputs::default() };
    let withdrawn = |sha256| Inputs { withdrawn: [sha256].into(), ..Inputs::default() };
    let nothing = Inputs::default;
    let (own, other) = (digest("its bytes"), digest("other bytes"));
    for (told, seen, inputs, expected) in [
        (with_digest(), url(), nothing(), None),
        // Of a page that was read back.
        (with_digest(), SeenFile::at(None), nothing(), None),
        (with_digest(), url(), lacking(Some(own)), Some(Hidden::Lacking)),
        (with_digest(), url(), lacking(Some(other)), None),
        (with_digest(), url(), lacking(None), None),
        (with_digest(), url(), withdrawn(own), Some(Hidden::Withdrawn)),
        (with_digest(), url(), withdrawn(other), None),
        // Upstream says no digest: what was measured stands in the unit.
        (ToldFile::named(), url(), nothing(), None),
        (ToldFile::named(), url(), lacking(None), Some(Hidden::Lacking)),
        (ToldFile::named(), url(), lacking(Some(own)), None),
        // It is told by its name alone.
        (ToldFile::named(), SeenFile::at(None), nothing(), Some(Hidden::Skipped)),
        (ToldFile::named(), SeenFile::at(None), withdrawn(own), Some(Hidden::Skipped)),
    ] {
        let case = format!("{told:?} {seen:?} {inputs:?}");
        let Shown { record, hidden, listed } = shown(told, seen, &inputs);
        assert_eq!(hidden.get(&file()).copied(), expected, "{case}");
        assert_eq!((record.files().len(), listed), if expected.is_none() { (1, true) } else { (0, false) }, "{case}");
    }
}
