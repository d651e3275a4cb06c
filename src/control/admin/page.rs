//! The status page: one answer with its style and its script in it, and a policy that lets nothing else run.
//!
//! The parts are files in `page/`. All text that is not theirs comes by the stream and is put in as text, never as HTML.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The page, and the policy it is to be served with.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) html: String,
    pub(super) policy: String,
}

/// The page.
pub(super) static PAGE: LazyLock<Page> = LazyLock::new(|| Page {
    html: HTML.replace("{{style}}", STYLE).replace("{{script}}", SCRIPT),
    // By their digests these two may run, and nothing else (W3C, Content Security Policy Level 3).
    policy: format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        base64(digest(&SHA256, STYLE.as_bytes()).as_ref()),
        base64(digest(&SHA256, SCRIPT.as_bytes()).as_ref()),
    ),
});

/// Whether whoever sends this `Accept` header wants the page: browsers name its type, curl and scripts do not.
pub(super) fn is_wanted(accept: &str) -> bool {
    accept.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "text/html"))
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0_usize, |word, byte| word << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = LETTERS[word >> (18 - 6 * place) & 63];
            text.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in vectors {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xfe]), "/+/+");
    }

    #[test]
    fn browsers_get_the_page_and_curl_the_table() {
        assert!(is_wanted("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(is_wanted("application/xml, text/html;q=0.5"));
        assert!(!is_wanted("*/*") && !is_wanted("") && !is_wanted("text/plain") && !is_wanted("text/html-ish"));
    }

    #[test]
    fn the_page_is_in_one_piece() {
        let html = &PAGE.html;
        assert!(!html.contains("{{") && html.contains(STYLE) && html.contains(SCRIPT));
        assert_eq!(html.matches("<style>").count() + html.matches("<script>").count(), 2);
        for part in
            ["http://", "https://", " on", "style=", "innerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            let found = match part {
                " on" => HTML.split('<').any(|tag| tag.split('>').next().is_some_and(|tag| tag.contains(" on"))),
                part => html.replace("http://www.w3.org/2000/svg", "").contains(part),
            };
            assert!(!found, "the page has {part:?}");
        }
        assert!(html.len() < 40_000, "{} bytes", html.len());
    }
}
