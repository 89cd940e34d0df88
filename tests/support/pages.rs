//! Where links within Markdown pages lead to: the anchors that GitHub gives to headings.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

/// The anchors of a page's headings, in their order. What stands in a code block is no heading, though it may look like one.
pub(crate) fn anchors(page: &str) -> Vec<String> {
    let mut inside = false;
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if let Some((_, heading)) = line.split_once(' ').filter(|(marks, _)| !inside && is_heading(marks)) {
            let anchor = anchor(heading);
            let before = times.entry(anchor.clone()).or_default();
            found.push(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
            *before += 1;
        }
    }
    found
}

/// Whether what stands before the first blank of a line makes it a heading.
pub(crate) fn is_heading(marks: &str) -> bool {
    !marks.is_empty() && marks.chars().all(|c| c == '#')
}

static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[([^\]]*)\]\([^)]*\)").unwrap());
static PUNCTUATION: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[^\w\- ]").unwrap());

/// Small letters, hyphens for spaces, no punctuation. Letters are those of every script; of a link only its words count.
fn anchor(heading: &str) -> String {
    let words = LINK.replace_all(heading.trim(), "$1").to_lowercase();
    PUNCTUATION.replace_all(&words, "").replace(' ', "-")
}

#[test]
fn headings_have_the_anchors_that_github_gives_them() {
    for (heading, expected) in [
        ("Passwords, tokens, TLS", "passwords-tokens-tls"),
        ("パスワード、トークン、TLS", "パスワードトークンtls"),
        ("`url` ひとつにつきプロセスひとつ", "url-ひとつにつきプロセスひとつ"),
        ("mediasoup (エージェント)", "mediasoup-エージェント"),
        ("サーバー・クライアント", "サーバークライアント"),
        ("What is my_name - or yours?", "what-is-my_name---or-yours"),
        ("See [the other page](other.md#here)", "see-the-other-page"),
    ] {
        assert_eq!(anchor(heading), expected, "{heading}");
    }
    assert_eq!(anchors("# One\n## Two\n```\n# Three\n```\n#Four\n# One\n"), ["one", "two", "one-1"]);
}
