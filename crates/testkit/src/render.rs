//! What the index says about its state: Simple API pages in JSON and HTML, and XML-RPC.
//!
//! Each function is pure: equal state gives equal bytes.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::project::{FileState, ProjectState, Status};
use crate::world::Event;

/// The version of the Simple API that pages claim.
pub(crate) const API_VERSION: &str = "1.4";

/// What every page needs to know beside the state.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// Put before each file's path.
    pub(crate) file_base: String,
    /// Whether pages carry serials.
    pub(crate) serials: bool,
}

/// A line of the root: display name and serial.
pub(crate) type RootLine = (String, u64, Status);

/// The page of a project as JSON. `label` is the serial it claims.
pub(crate) fn page_json(project: &ProjectState, label: u64, context: &Context) -> Bytes {
    let files: Vec<Value> = project.files.iter().map(|file| file_json(file, context)).collect();
    let page = json!({
        "meta": meta(label, context),
        "name": project.name,
        "project-status": { "status": project.status.as_str() },
        "versions": project.versions,
        "files": files,
    });
    page.to_string().into()
}

fn file_json(file: &FileState, context: &Context) -> Value {
    let metadata = match &file.core_metadata {
        Some(digest) => json!({ "sha256": digest }),
        None => json!(false),
    };
    let yanked = match file.yanked.as_deref() {
        None => json!(false),
        Some("") => json!(true),
        Some(reason) => json!(reason),
    };
    json!({
        "filename": file.filename,
        "url": url(file, context),
        "hashes": { "sha256": file.sha256 },
        "requires-python": file.requires_python,
        "size": file.size,
        "upload-time": file.upload_time,
        "yanked": yanked,
        "core-metadata": metadata,
        "data-dist-info-metadata": metadata,
        "provenance": null,
    })
}

/// The root as JSON, without what is quarantined.
pub(crate) fn root_json<'a>(lines: impl Iterator<Item = &'a RootLine>, label: u64, context: &Context) -> Bytes {
    let projects: Vec<Value> =
        listed(lines)
            .map(|(name, serial, _)| {
                if context.serials { json!({ "name": name, "_last-serial": serial }) } else { json!({ "name": name }) }
            })
            .collect();
    let root = json!({ "meta": meta(label, context), "projects": projects });
    root.to_string().into()
}

fn meta(label: u64, context: &Context) -> Value {
    if context.serials {
        json!({ "api-version": API_VERSION, "_last-serial": label })
    } else {
        json!({ "api-version": API_VERSION })
    }
}

fn listed<'a>(lines: impl Iterator<Item = &'a RootLine>) -> impl Iterator<Item = &'a RootLine> {
    lines.filter(|(_, _, status)| *status != Status::Quarantined)
}

/// The page of a project as HTML.
pub(crate) fn page_html(project: &ProjectState, label: u64, context: &Context) -> Bytes {
    let title = format!("Links for {}", project.name);
    let status = format!("    <meta name=\"pypi:project-status\" content=\"{}\">\n", project.status.as_str());
    let mut body = format!("    <h1>{}</h1>\n", escape(&title));
    for file in &project.files {
        let mut attributes = format!("href=\"{}#sha256={}\"", escape(&url(file, context)), file.sha256);
        let mut add = |name: &str, value: &str| {
            attributes.push_str(&format!(" {name}=\"{}\"", escape(value)));
        };
        if let Some(specifier) = &file.requires_python {
            add("data-requires-python", specifier);
        }
        if let Some(digest) = &file.core_metadata {
            add("data-dist-info-metadata", &format!("sha256={digest}"));
            add("data-core-metadata", &format!("sha256={digest}"));
        }
        if let Some(reason) = &file.yanked {
            add("data-yanked", reason);
        }
        body.push_str(&format!("    <a {attributes}>{}</a><br>\n", escape(&file.filename)));
    }
    html(&title, &status, &body, label, context)
}

/// The root as HTML, without what is quarantined.
pub(crate) fn root_html<'a>(lines: impl Iterator<Item = &'a RootLine>, label: u64, context: &Context) -> Bytes {
    let mut body = String::new();
    for (name, _, _) in listed(lines) {
        let path = crate::project::normalise(name);
        body.push_str(&format!("    <a href=\"/simple/{path}/\">{}</a><br>\n", escape(name)));
    }
    html("Simple index", "", &body, label, context)
}

fn html(title: &str, head: &str, body: &str, label: u64, context: &Context) -> Bytes {
    let serial = if context.serials { format!("<!--SERIAL {label}-->\n") } else { String::new() };
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html>\n  <head>\n    <meta name=\"pypi:repository-version\" content=\"{API_VERSION}\">\n\
         {head}    <title>{title}</title>\n  </head>\n  <body>\n{body}  </body>\n</html>\n{serial}"
    )
    .into()
}

fn url(file: &FileState, context: &Context) -> String {
    format!("{}{}", context.file_base, percent_encode(&file.url_path))
}

/// Escapes text for HTML, in attributes too.
fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&#34;").replace('\'', "&#39;")
}

/// Encodes a path, leaving its slashes.
pub(crate) fn percent_encode(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/+!@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Undoes percent-encoding; what is not encoded properly stays as it is.
pub(crate) fn percent_decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The answer to `changelog_since_serial`.
pub(crate) fn rpc_events(events: &[Event]) -> Bytes {
    let mut rows = String::new();
    for event in events {
        let version = match &event.version {
            Some(version) => rpc_text(version),
            None => "<value><nil/></value>".to_owned(),
        };
        rows.push_str(&format!(
            "<value><array><data>\n{}\n{version}\n{}\n{}\n{}\n</data></array></value>\n",
            rpc_text(&event.name),
            rpc_int(event.at_ms / 1000),
            rpc_text(&clean(&event.action)),
            rpc_int(event.serial),
        ));
    }
    rpc_answer(&format!("<value><array><data>\n{rows}</data></array></value>"))
}

/// The answer to `changelog_last_serial`.
pub(crate) fn rpc_serial(serial: u64) -> Bytes {
    rpc_answer(&rpc_int(serial))
}

/// The answer to `list_packages_with_serial`; it names quarantined projects too.
pub(crate) fn rpc_list<'a>(lines: impl Iterator<Item = &'a RootLine>) -> Bytes {
    let mut members = String::new();
    for (name, serial, _) in lines {
        members.push_str(&format!("<member>\n<name>{}</name>\n{}\n</member>\n", rpc_escape(name), rpc_int(*serial)));
    }
    rpc_answer(&format!("<value><struct>\n{members}</struct></value>"))
}

/// A fault.
pub(crate) fn rpc_fault(code: i32, message: &str) -> Bytes {
    format!(
        "<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value><struct>\n\
         <member>\n<name>faultCode</name>\n<value><int>{code}</int></value>\n</member>\n\
         <member>\n<name>faultString</name>\n{}\n</member>\n\
         </struct></value>\n</fault>\n</methodResponse>\n",
        rpc_text(message)
    )
    .into()
}

fn rpc_answer(value: &str) -> Bytes {
    format!(
        "<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n{value}\n</param>\n</params>\n</methodResponse>\n"
    )
    .into()
}

fn rpc_int(number: u64) -> String {
    format!("<value><int>{number}</int></value>")
}

fn rpc_text(text: &str) -> String {
    format!("<value><string>{}</string></value>", rpc_escape(text))
}

fn rpc_escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// An action as Warehouse puts it into XML: a character outside of ASCII becomes a character reference *as text* (and is
/// escaped once more with the rest), and one that XML cannot hold is dropped. So odd filenames do not survive.
fn clean(action: &str) -> String {
    let mut out = String::new();
    for character in action.chars() {
        match character {
            '\t' | '\n' | '\r' | ' '..='\u{7f}' => out.push(character),
            _ if character.is_ascii() => {}
            _ => out.push_str(&format!("&#{};", u32::from(character))),
        }
    }
    out
}
