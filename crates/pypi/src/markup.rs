//! HTML as a series of parts.
//!
//! What always holds: of a tag no more than [`MOST`] attributes are kept, so that no page takes much more memory than it is long; no
//! input panics. Tested below, in `html.rs` and in `root.rs`.

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Span, Tokenizer};

/// How many attributes of a tag are kept.
const MOST: usize = 64;

/// A part of a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Start(Tag),
    /// The end of an element of this name.
    End(String),
    Text(String),
    Comment(String),
}

/// The beginning of an element.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tag {
    /// In lower case.
    pub(crate) name: String,
    attributes: Vec<(String, String)>,
}

impl Tag {
    /// The value of an attribute; the first one where the tag has it twice.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// What stands inside scripts and styles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scripts {
    /// Text.
    Opaque,
    /// Parts, as everywhere.
    Read,
}

/// The parts of a text in HTML, in their order.
pub(crate) fn parts(text: &str, scripts: Scripts) -> impl Iterator<Item = Part> {
    let owned = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut open: Option<Tag> = None;
    let mut emitter = CallbackEmitter::new(move |event: CallbackEvent<'_>, _: Span<()>| match event {
        CallbackEvent::OpenStartTag { name } => {
            open = Some(Tag { name: owned(name), attributes: Vec::new() });
            None
        }
        CallbackEvent::AttributeName { name } => {
            let attributes = open.as_mut().map(|tag| &mut tag.attributes);
            if let Some(attributes) = attributes.filter(|attributes| attributes.len() <= MOST) {
                attributes.push((owned(name), String::new()));
            }
            None
        }
        CallbackEvent::AttributeValue { value } => {
            let attributes = open.as_mut().map(|tag| &mut tag.attributes);
            if let Some((_, own)) = attributes.filter(|all| all.len() <= MOST).and_then(|all| all.last_mut()) {
                *own = owned(value);
            }
            None
        }
        CallbackEvent::CloseStartTag { .. } => open.take().map(|mut tag| {
            tag.attributes.truncate(MOST);
            Part::Start(tag)
        }),
        CallbackEvent::EndTag { name } => Some(Part::End(owned(name))),
        CallbackEvent::String { value } => Some(Part::Text(owned(value))),
        CallbackEvent::Comment { value } => Some(Part::Comment(owned(value))),
        CallbackEvent::Doctype { .. } | CallbackEvent::Error(_) => None,
    });
    emitter.naively_switch_states(scripts == Scripts::Opaque);
    Tokenizer::new_with_emitter(text, emitter).map(|part| {
        let Ok(part) = part;
        part
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Vec<Part> {
        parts(text, Scripts::Read).collect()
    }

    fn first(text: &str) -> Tag {
        match of(text).remove(0) {
            Part::Start(tag) => tag,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn tags_and_what_is_between_them() {
        let parts = of("<A HREF='x&amp;y' b data-c=\"\" href=z>t &lt;</a href=q><!--c--><br/>");
        let [Part::Start(a), Part::Text(text), Part::End(end), Part::Comment(comment), Part::Start(br)] = &parts[..]
        else {
            unreachable!("{parts:?}")
        };
        assert_eq!(
            (a.name.as_str(), text.as_str(), end.as_str(), comment.as_str(), br.name.as_str()),
            ("a", "t <", "a", "c", "br")
        );
        assert_eq!(["href", "b", "data-c", "c"].map(|name| a.get(name)), [Some("x&y"), Some(""), Some(""), None]);
    }

    #[test]
    fn of_many_attributes_the_first_are_kept() {
        for count in [1, MOST, MOST + 1, 100_000] {
            let attributes: Vec<_> = (0..count).map(|number| format!("a{number}=v{number}")).collect();
            let tag = first(&format!("<a {}>", attributes.join(" ")));
            assert_eq!(tag.attributes.len(), count.min(MOST), "{count}");
            let last = count.min(MOST) - 1;
            assert_eq!(tag.get(&format!("a{last}")), Some(&*format!("v{last}")), "{count}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(<|a|/|>| |=|\"|'|<!--|-->|&|;|\\PC){0,40}") {
            drop(of(&text));
            drop(parts(&text, Scripts::Opaque).collect::<Vec<_>>());
        }
    }
}
