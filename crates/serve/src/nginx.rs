//! The nginx configuration that serves the static view as the embedded server serves the catalog.
//!
//! What always holds: the configuration works as printed with nginx 1.22, and `tests/conformance` asks nginx the same as the
//! embedded server. nginx cannot do everything that the embedded server does: a view has no `@SERIAL` paths, and nginx knows
//! no serials to put into headers.

use std::fmt::Write as _;
use std::path::Path;

use strandline_model::MirrorName;

const TEMPLATE: &str = include_str!("server_block.conf");

/// The types that a client can name in Accept: a variable for each form, and the pattern of its types.
const TYPES: [(&str, &str); 6] = [
    ("json", r"application/vnd\.pypi\.simple\.(?:v1|latest)\+json"),
    ("versioned_html", r"application/vnd\.pypi\.simple\.(?:v1|latest)\+html"),
    ("html", "text/html"),
    ("application", r"application/\*"),
    ("text", r"text/\*"),
    ("any", r"\*/\*"),
];

/// How many separators of a name one redirect normalises.
const SEPARATORS: usize = 8;

/// The text of the configuration: `map`s and one `server`, to be included in nginx's `http` block.
///
/// `listen` stands after nginx's directive of that name: an address such as `127.0.0.1:8080`. A path of a store that is
/// not UTF-8 cannot be written here; such bytes come out as U+FFFD.
pub fn server_block(store_root: &Path, mirrors: &[MirrorName], listen: &str) -> String {
    let absolute = std::path::absolute(store_root).unwrap_or_else(|_| store_root.to_owned());
    let views = quoted(&absolute.join("views").to_string_lossy());
    let names: Vec<_> = mirrors.iter().map(MirrorName::as_str).collect();
    // If there is no mirror, no name may match: an empty alternative would match an empty name.
    let names = if names.is_empty() { "(?!)".to_owned() } else { names.join("|") };
    // The only way to write a dollar sign for nginx is a variable that holds one.
    let dollar = if views.contains(DOLLAR) { "\ngeo $strandline_dollar {\n    default \"$\";\n}\n" } else { "" };
    TEMPLATE
        .replace("@QUALITIES@\n", &qualities())
        .replace("@GREATER@", &greater())
        .replace("@DOLLAR@\n", &format!("{dollar}\n"))
        .replace("@LOWER@", &normal_name())
        .replace("@MIRRORS@", &names)
        .replace("@VIEWS@", &views)
        .replace("@LISTEN@", listen)
}

const DOLLAR: &str = "${strandline_dollar}";

/// Text between double quotes, where variables are replaced.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '$' => out.push_str(DOLLAR),
            '"' | '\\' => out.extend(['\\', character]),
            other => out.push(other),
        }
    }
    out
}

fn qualities() -> String {
    // A range, up to where its q may stand. The loops do not backtrack, so that a q is never taken for something else.
    let before = r"\s*+(?:;\s*+(?!q=)[^,;]*+)*+";
    let quality = r";\s*+q=(?!1\.0*[1-9])(?<strandline_whole>[01])(?:\.(?<strandline_digits>\d*?)0*)?\s*(?:;[^,]*)?";
    TYPES.iter().fold(String::new(), |mut out, (variable, pattern)| {
        let start = format!(r"~*(?:^|,)\s*{pattern}{before}");
        writeln!(
            out,
            "map $strandline_accept $strandline_q_{variable} {{\n    \
             \"{start}{quality}(?:,|\\z)\" \"$strandline_whole$strandline_digits\";\n    \
             \"{start}(?:,|\\z)\" \"1\";\n    \
             default \"\";\n}}"
        )
        .expect("a string takes everything");
        out
    })
}

fn greater() -> String {
    let lower = (1..=9).map(|digit| format!("{digit}[^ ]* \\k<strandline_same>[0-{}]", digit - 1));
    let all: Vec<_> = std::iter::once(r"\d[^ ]* \k<strandline_same>!".to_owned()).chain(lower).collect();
    format!("~^(?<strandline_same>[^ ]*)(?:{})", all.join("|"))
}

fn normal_name() -> String {
    let letters = ('A'..='Z')
        .map(|letter| format!("        rewrite \"^(.*){letter}(.*)\\z\" \"$1{}$2\";", letter.to_ascii_lowercase()));
    let separator = r#"        rewrite "^(.*/simple/.*?)(?:[._][._-]*|-[._-]+)(.*)\z" "$1-$2";"#;
    letters.chain(std::iter::repeat_n(separator.to_owned(), SEPARATORS)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_fill_in() {
        let mirrors = ["pypi".parse().unwrap(), "internal".parse().unwrap()];
        let text = server_block(Path::new("/srv/my store/$x\"\\"), &mirrors, "127.0.0.1:8080");
        let filled = text.lines().map(|line| line.replace("@strandline_", "")).all(|line| !line.contains('@'));
        assert!(filled, "{text}");
        assert!(text.contains("listen 127.0.0.1:8080;"));
        assert!(text.contains(r#"root "/srv/my store/${strandline_dollar}x\"\\/views";"#));
        assert!(text.contains("(?<strandline_mirror>pypi|internal)"));
        assert!(!server_block(Path::new("/srv"), &mirrors, "80").contains("strandline_dollar"));
    }
}
