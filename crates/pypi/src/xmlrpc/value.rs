//! Reading XML-RPC responses.
//!
//! What always holds: no input panics, recurses deeper than [`DEEPEST`] or makes more than [`MOST`] values; what is
//! not a response is an error; a document type, where entities could be declared, is refused. Tested below.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::Event;

/// How deep values may be nested.
const DEEPEST: usize = 16;
/// How many values a response may hold: some five times as many as the greatest list that there is.
const MOST: usize = 4_000_000;

/// A value of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Text(String),
    Array(Vec<Value>),
    Struct(Vec<(String, Value)>),
    /// A number with a fraction, a time, or bytes: nothing that a changelog has.
    Other,
}

impl Value {
    /// What it is, for errors.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "a number",
            Self::Text(_) => "a text",
            Self::Array(_) => "an array",
            Self::Struct(_) => "a struct",
            Self::Other => "another kind of value",
        }
    }
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// What was asked for.
    Value(Value),
    /// Why not.
    Fault {
        /// The number of the kind of fault.
        code: i64,
        /// What the server says.
        text: String,
    },
}

/// Reads a response.
pub(crate) fn parse(text: &str) -> Result<Reply, String> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut parser = Parser { reader, values: 0 };
    parser.open("methodResponse")?;
    let reply = match parser.open_any()?.as_ref() {
        "params" => {
            parser.open("param")?;
            parser.open("value")?;
            let value = parser.value(0)?;
            parser.close("param")?;
            Reply::Value(value)
        }
        "fault" => {
            parser.open("value")?;
            fault(parser.value(0)?)?
        }
        other => return Err(format!("expected `params` or `fault`, found `{other}`")),
    };
    parser.close("params or fault")?;
    parser.close("methodResponse")?;
    match parser.structure()? {
        Step::End => Ok(reply),
        step => Err(format!("expected the end, found {step}")),
    }
}

fn fault(value: Value) -> Result<Reply, String> {
    let Value::Struct(members) = value else { return Err(format!("a fault is {}, not a struct", value.kind())) };
    let (mut code, mut text) = (None, None);
    for member in members {
        match member {
            (name, Value::Int(number)) if name == "faultCode" => code = Some(number),
            (name, Value::Text(found)) if name == "faultString" => text = Some(found),
            _ => {}
        }
    }
    let code = code.ok_or("a fault has no `faultCode`")?;
    Ok(Reply::Fault { code, text: text.unwrap_or_default() })
}

/// The elements of which there are many: a log has a dozen in each of its tens of thousands of rows, and their names are not
/// worth an allocation each.
const FREQUENT: [&str; 9] = ["value", "string", "int", "data", "array", "nil", "i8", "member", "name"];

fn element(name: &str) -> Cow<'static, str> {
    let frequent = FREQUENT.into_iter().find(|frequent| *frequent == name);
    frequent.map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed)
}

struct Parser<'a> {
    reader: Reader<&'a [u8]>,
    values: usize,
}

/// The next event of the reader, without those that mean nothing.
enum Step<'a> {
    Open(Cow<'a, str>),
    Close,
    Text(Cow<'a, str>),
    End,
}

impl std::fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(name) => write!(f, "`<{}>`", crate::url_check::shown(name)),
            Self::Close => f.write_str("an end tag"),
            Self::Text(text) => write!(f, "`{}`", crate::url_check::shown(text)),
            Self::End => f.write_str("the end of the document"),
        }
    }
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Result<Step<'a>, String> {
        loop {
            let at = self.reader.buffer_position();
            let event = self.reader.read_event().map_err(|error| format!("at byte {at}: {error}"))?;
            return Ok(match event {
                Event::Start(tag) => Step::Open(element(tag.name().as_ref())),
                Event::End(_) => Step::Close,
                Event::Text(text) => Step::Text(text.into_inner()),
                Event::CData(text) => Step::Text(text.into_inner()),
                Event::GeneralRef(name) => Step::Text(Cow::Owned(match name.resolve_char_ref() {
                    Ok(Some(character)) => character.to_string(),
                    Ok(None) => quick_xml::escape::resolve_xml_entity(&name)
                        .ok_or_else(|| format!("at byte {at}: an entity that XML does not have"))?
                        .to_owned(),
                    Err(error) => return Err(format!("at byte {at}: {error}")),
                })),
                Event::Eof => Step::End,
                Event::DocType(_) => return Err("a document type".to_owned()),
                Event::Empty(_) => return Err("an element that was not expanded".to_owned()),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => continue,
            });
        }
    }

    /// The next step that is more than white space.
    fn structure(&mut self) -> Result<Step<'a>, String> {
        loop {
            match self.next()? {
                Step::Text(text) if text.trim().is_empty() => {}
                step => return Ok(step),
            }
        }
    }

    fn open_any(&mut self) -> Result<Cow<'a, str>, String> {
        match self.structure()? {
            Step::Open(name) => Ok(name),
            step => Err(format!("expected an element, found {step}")),
        }
    }

    fn open(&mut self, name: &str) -> Result<(), String> {
        match self.structure()? {
            Step::Open(found) if found == name => Ok(()),
            step => Err(format!("expected `<{name}>`, found {step}")),
        }
    }

    /// The end of an element; the reader itself checks that it is the one that was opened.
    fn close(&mut self, name: &str) -> Result<(), String> {
        match self.structure()? {
            Step::Close => Ok(()),
            step => Err(format!("expected the end of {name}, found {step}")),
        }
    }

    /// The rest of an element that holds text only.
    fn text(&mut self) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.next()? {
                Step::Text(more) => text.push_str(&more),
                Step::Close => return Ok(text),
                step => return Err(format!("expected text, found {step}")),
            }
        }
    }

    /// The rest of `<value>`.
    fn value(&mut self, depth: usize) -> Result<Value, String> {
        self.values += 1;
        if depth > DEEPEST || self.values > MOST {
            return Err(format!("values nested deeper than {DEEPEST}, or more than {MOST} of them"));
        }
        let mut bare = String::new();
        let kind = loop {
            match self.next()? {
                Step::Text(text) => bare.push_str(&text),
                // A value without a kind is a text.
                Step::Close => return Ok(Value::Text(bare)),
                Step::Open(kind) if bare.trim().is_empty() => break kind,
                step => return Err(format!("expected the end of a text, found {step}")),
            }
        };
        let value = match kind.as_ref() {
            "string" => Value::Text(self.text()?),
            "int" | "i4" | "i8" | "ex:i8" => {
                let text = self.text()?;
                Value::Int(
                    text.trim().parse().map_err(|_| format!("`{}` is no number", crate::url_check::shown(&text)))?,
                )
            }
            "boolean" => match self.text()?.trim() {
                "0" => Value::Bool(false),
                "1" => Value::Bool(true),
                _ => return Err("a truth value is neither 0 nor 1".to_owned()),
            },
            "nil" | "ex:nil" => {
                self.text()?;
                Value::Nil
            }
            "double" | "dateTime.iso8601" | "base64" => {
                self.text()?;
                Value::Other
            }
            "array" => self.array(depth)?,
            "struct" => self.members(depth)?,
            _ => return Err(format!("`{}` is no kind of value", crate::url_check::shown(&kind))),
        };
        self.close("a value")?;
        Ok(value)
    }

    /// The rest of `<array>`.
    fn array(&mut self, depth: usize) -> Result<Value, String> {
        self.open("data")?;
        let mut values = Vec::new();
        loop {
            match self.structure()? {
                Step::Open(name) if name == "value" => values.push(self.value(depth + 1)?),
                Step::Close => break,
                step => return Err(format!("expected `<value>`, found {step}")),
            }
        }
        self.close("an array")?;
        Ok(Value::Array(values))
    }

    /// The rest of `<struct>`.
    fn members(&mut self, depth: usize) -> Result<Value, String> {
        let mut members = Vec::new();
        loop {
            match self.structure()? {
                Step::Open(name) if name == "member" => {
                    self.open("name")?;
                    let name = self.text()?;
                    self.open("value")?;
                    members.push((name, self.value(depth + 1)?));
                    self.close("a member")?;
                }
                Step::Close => return Ok(Value::Struct(members)),
                step => return Err(format!("expected `<member>`, found {step}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(value: &str) -> String {
        format!(
            "<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n{value}\n</param>\n</params>\n</methodResponse>\n"
        )
    }

    fn value(value: &str) -> Result<Value, String> {
        match parse(&response(value))? {
            Reply::Value(value) => Ok(value),
            Reply::Fault { .. } => unreachable!("a response with params is no fault"),
        }
    }

    #[test]
    fn values_of_each_kind() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (xml, expected) in [
            ("<value><int>7</int></value>", Value::Int(7)),
            ("<value> <i8>-4294967296</i8> </value>", Value::Int(-4_294_967_296)),
            ("<value>bare &lt;&#65;&#x42;</value>", text("bare <AB")),
            ("<value><string> a &amp; <![CDATA[<b>]]></string></value>", text(" a & <b>")),
            ("<value><string/></value>", text("")),
            ("<value/>", text("")),
            ("<value><nil/></value>", Value::Nil),
            ("<value><boolean>1</boolean></value>", Value::Bool(true)),
            ("<value><double>1.5</double></value>", Value::Other),
            ("<value><array><data/></array></value>", Value::Array(vec![])),
            (
                "<value><array><data><value>a</value> <!-- x --> <value><nil/></value></data></array></value>",
                Value::Array(vec![text("a"), Value::Nil]),
            ),
            (
                "<value><struct><member><name>a&amp;b</name><value><int>1</int></value></member></struct></value>",
                Value::Struct(vec![("a&b".to_owned(), Value::Int(1))]),
            ),
        ] {
            assert_eq!(value(xml), Ok(expected), "{xml}");
        }
    }

    #[test]
    fn a_fault() {
        let xml = "<methodResponse><fault><value><struct>\
            <member><name>faultCode</name><value><int>-32500</int></value></member>\
            <member><name>faultString</name><value><string>slow down</string></value></member>\
            </struct></value></fault></methodResponse>";
        assert_eq!(parse(xml), Ok(Reply::Fault { code: -32500, text: "slow down".to_owned() }));
    }

    #[test]
    fn what_is_no_response() {
        let deep = format!("{}{}", "<value><array><data>".repeat(40), "</data></array></value>".repeat(40));
        for xml in [
            "",
            "<html></html>",
            "<methodResponse/>",
            "<methodResponse><params/></methodResponse>",
            "<methodResponse><params><param><value><int>7</int></value></param></params>",
            "<!DOCTYPE x [<!ENTITY a 'b'>]><methodResponse/>",
            "<methodResponse><fault><value>x</value></fault></methodResponse>",
            &response("<value><int>7x</int></value>"),
            &response("<value><int>99999999999999999999</int></value>"),
            &response("<value><nope/></value>"),
            &response("<value>a<int>7</int></value>"),
            &response("<value><int>7</int>a</value>"),
            &response("<value><string>&nope;</string></value>"),
            &response("<value><string>&#0;</string></value>"),
            &response("<value><boolean>2</boolean></value>"),
            &response("<value><array><value/></array></value>"),
            &response("<value><struct><member><value/></member></struct></value>"),
            &response("<value/><value/>"),
            &response(&deep),
            &format!("{}<x/>", response("<value/>")),
        ] {
            assert!(parse(xml).is_err(), "{xml}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            assert!(parse(&text).is_err());
        }

        #[test]
        fn no_broken_response_panics(
            parts in proptest::collection::vec(
                prop::sample::select(vec![
                    "<value>", "</value>", "<int>", "</int>", "7", "<array>", "<data>", "</data>", "</array>",
                    "<struct>", "<member>", "<name>", "</name>", "</member>", "</struct>", "<nil/>", "&amp;", "&#x",
                    "<![CDATA[", "]]>", "<!--", "-->", "<?", "a",
                ]),
                0..24,
            ),
        ) {
            drop(parse(&response(&parts.concat())));
        }
    }
}
