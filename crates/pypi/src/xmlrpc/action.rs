//! The sentences by which the changelog says what happened.
//!
//! What always holds: each sentence has one meaning; a sentence that is not known, and one about a release or file that
//! lacks its version, is [`Action::Unknown`], so that nothing is guessed. Tested below.

use strandline_sync::cut::Action;

/// What an action does to the page of its project, `version` being the version that the row names; `None` for an action about
/// people, which changes no page. An action that is not known may have changed anything.
pub(crate) fn read(action: &str, version: Option<&str>) -> Option<Action> {
    let words: Vec<_> = action.splitn(4, ' ').collect();
    let of_release = |make: fn(String) -> Action| version.map_or(Action::Unknown, |version| make(version.to_owned()));
    Some(match (action, &words[..]) {
        ("create", _) => Action::Create,
        ("new release", _) => of_release(Action::NewRelease),
        ("remove release", _) => of_release(Action::RemoveRelease),
        ("remove project", _) => Action::RemoveProject,
        ("yank release", _) => of_release(Action::YankRelease),
        ("unyank release", _) => of_release(Action::UnyankRelease),
        ("project quarantined", _) => Action::QuarantineProject,
        ("project quarantine cleared", _) => Action::ClearProject,
        ("release quarantined", _) => of_release(Action::QuarantineRelease),
        ("release quarantine cleared", _) => of_release(Action::ClearRelease),
        (_, ["add", _, "file", name]) => match version {
            Some(version) => Action::AddFile(version.to_owned(), (*name).to_owned()),
            None => Action::Unknown,
        },
        (_, ["remove", "file", ..]) => match action.strip_prefix("remove file ") {
            Some(name) if !name.is_empty() => Action::RemoveFile(name.to_owned()),
            _ => Action::Unknown,
        },
        (_, ["add" | "remove" | "change" | "invite" | "revoke_invite" | "accepted", "Owner" | "Maintainer", ..]) => {
            return None;
        }
        _ => Action::Unknown,
    })
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
            assert_eq!(read(sentence, Some("1.0")), Some(with), "{sentence}");
            assert_eq!(read(sentence, None), Some(without), "{sentence}");
        }
    }

    #[test]
    fn sentences_about_people() {
        for sentence in ["add Owner somebody", "accepted Maintainer somebody", "revoke_invite Owner somebody"] {
            assert_eq!(read(sentence, None), None, "{sentence}");
        }
        assert_eq!(read("praise Owner somebody", None), Some(Action::Unknown));
    }
}
