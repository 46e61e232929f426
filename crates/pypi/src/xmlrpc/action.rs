//! The sentences by which the changelog says what happened.
//!
//! What always holds: each sentence has one meaning; a sentence that is not known, and one about a release or file that
//! lacks its version, is [`Action::Unknown`], so that nothing is guessed. Tested below.

use strandline_sync::cut::Action;

/// What an action does to the page of its project, `version` being the version that the row names; `None` for an action about
/// people, which changes no page. An action that is not known may have changed anything.
///
/// It takes the row's own texts, because each sync reads tens of thousands of rows again.
pub(crate) fn read(mut action: String, version: Option<String>) -> Option<Action> {
    if let Some((verb, begin)) = file(&action) {
        let name = action.split_off(begin);
        return Some(match (verb, version) {
            (Verb::Remove, _) => Action::RemoveFile(name),
            (Verb::Add, Some(version)) => Action::AddFile(version, name),
            (Verb::Add, None) => Action::Unknown,
        });
    }
    let of_release = |make: fn(String) -> Action| version.map_or(Action::Unknown, make);
    Some(match action.as_str() {
        "create" => Action::Create,
        "new release" => of_release(Action::NewRelease),
        "remove release" => of_release(Action::RemoveRelease),
        "remove project" => Action::RemoveProject,
        "yank release" => of_release(Action::YankRelease),
        "unyank release" => of_release(Action::UnyankRelease),
        "project quarantined" => Action::QuarantineProject,
        "project quarantine cleared" => Action::ClearProject,
        "release quarantined" => of_release(Action::QuarantineRelease),
        "release quarantine cleared" => of_release(Action::ClearRelease),
        sentence if is_about_people(sentence) => return None,
        _ => Action::Unknown,
    })
}

enum Verb {
    Add,
    Remove,
}

/// What becomes of a file, and where in the sentence its name begins: `add KIND file NAME`, `remove file NAME`.
fn file(sentence: &str) -> Option<(Verb, usize)> {
    let (verb, name) = match sentence.split_once(' ')? {
        ("add", rest) => (Verb::Add, rest.split_once(' ')?.1.strip_prefix("file ")?),
        ("remove", rest) => (Verb::Remove, rest.strip_prefix("file ").filter(|name| !name.is_empty())?),
        _ => return None,
    };
    Some((verb, sentence.len() - name.len()))
}

fn is_about_people(sentence: &str) -> bool {
    let mut words = sentence.split(' ');
    matches!(words.next(), Some("add" | "remove" | "change" | "invite" | "revoke_invite" | "accepted"))
        && matches!(words.next(), Some("Owner" | "Maintainer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_and_what_they_mean() {
        let version = || "1.0".to_owned();
        for (sentence, with, without) in [
            ("create", Action::Create, Action::Create),
            ("remove project", Action::RemoveProject, Action::RemoveProject),
            ("project quarantined", Action::QuarantineProject, Action::QuarantineProject),
            ("project quarantine cleared", Action::ClearProject, Action::ClearProject),
            ("new release", Action::NewRelease(version()), Action::Unknown),
            ("remove release", Action::RemoveRelease(version()), Action::Unknown),
            ("yank release", Action::YankRelease(version()), Action::Unknown),
            ("unyank release", Action::UnyankRelease(version()), Action::Unknown),
            ("release quarantined", Action::QuarantineRelease(version()), Action::Unknown),
            ("release quarantine cleared", Action::ClearRelease(version()), Action::Unknown),
            ("add py3 file a b.whl", Action::AddFile(version(), "a b.whl".to_owned()), Action::Unknown),
            ("remove file a b.whl", Action::RemoveFile("a b.whl".to_owned()), Action::RemoveFile("a b.whl".to_owned())),
            ("remove file ", Action::Unknown, Action::Unknown),
            ("remove file", Action::Unknown, Action::Unknown),
            ("rename everything", Action::Unknown, Action::Unknown),
            ("", Action::Unknown, Action::Unknown),
        ] {
            assert_eq!(read(sentence.to_owned(), Some(version())), Some(with), "{sentence}");
            assert_eq!(read(sentence.to_owned(), None), Some(without), "{sentence}");
        }
    }

    #[test]
    fn sentences_about_people() {
        for sentence in ["add Owner somebody", "accepted Maintainer somebody", "revoke_invite Owner somebody"] {
            assert_eq!(read(sentence.to_owned(), None), None, "{sentence}");
        }
        assert_eq!(read("praise Owner somebody".to_owned(), None), Some(Action::Unknown));
    }
}
