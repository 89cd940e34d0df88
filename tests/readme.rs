//! The two READMEs are the first thing that users read and type. They must say the same, and nothing in them may be invented.

#![expect(clippy::unwrap_used, reason = "a test may")]

#[path = "support/pages.rs"]
mod pages;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use scrapetarget_exporter::cli::Cli;
use scrapetarget_exporter::file::documents;
use serde_json::Value;

const ENGLISH: &str = "README.md";
const JAPANESE: &str = "README.ja.md";
const BOTH: [&str; 2] = [ENGLISH, JAPANESE];

/// Components of Grafana Alloy, whose names begin like values of the chart.
const OF_ALLOY: [&str; 1] = ["discovery.http"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands below a heading, up to the next one of any level.
#[derive(Default)]
struct Section {
    level: usize,
    heading: String,
    prose: String,
    blocks: Vec<Block>,
}

struct Block {
    language: String,
    lines: Vec<String>,
}

fn sections(page: &str) -> Vec<Section> {
    let mut found = vec![Section::default()];
    let mut inside = false;
    for line in read(page).lines() {
        let here = found.last_mut().unwrap();
        if let Some(language) = line.trim_start().strip_prefix("```") {
            if !inside {
                here.blocks.push(Block { language: language.to_owned(), lines: Vec::new() });
            }
            inside = !inside;
        } else if inside {
            here.blocks.last_mut().unwrap().lines.push(line.to_owned());
        } else if let Some((marks, heading)) = line.split_once(' ').filter(|(marks, _)| pages::is_heading(marks)) {
            found.push(Section { level: marks.len(), heading: heading.to_owned(), ..Section::default() });
        } else {
            here.prose.push_str(line.trim());
            here.prose.push('\n');
        }
    }
    assert!(!inside, "{page}: a code block does not end");
    assert!(found.len() > 20, "{page}: only {} sections", found.len());
    found
}

impl Section {
    /// What stands between backticks in the prose.
    fn spans(&self) -> Vec<String> {
        let parts: Vec<&str> = self.prose.split('`').collect();
        assert!(parts.len() % 2 == 1, "{}: a backtick is missing", self.heading);
        parts.into_iter().skip(1).step_by(2).map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// The targets of links, but for the one that leads to the other language.
    fn links(&self) -> BTreeSet<&str> {
        let targets = self.prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        targets.filter(|target| !target.starts_with('#') && !BOTH.contains(target)).collect()
    }

    /// The anchors of the same page that it links to.
    fn anchors(&self) -> Vec<&str> {
        self.prose.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()).collect()
    }

    fn pictures(&self) -> Vec<&str> {
        self.prose.split("<img src=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
    }

    /// The rows of tables whose first two cells hold nothing but code: a value of the chart and its default.
    fn value_rows(&self) -> Vec<(&str, &str)> {
        let code = |cell: &'_ str| cell.trim().len() > 2 && cell.trim().matches('`').count() == 2;
        let only = |cell: &'_ str| code(cell) && cell.trim().starts_with('`') && cell.trim().ends_with('`');
        let rows = self.prose.lines().filter(|line| line.starts_with('|'));
        rows.filter_map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            let [first, second, ..] = cells[..] else { return None };
            (only(first) && only(second)).then(|| (first.trim().trim_matches('`'), second.trim().trim_matches('`')))
        })
        .collect()
    }
}

impl Block {
    /// The lines without comments, which may be in any language and on any number of lines.
    fn code(&self) -> Vec<&str> {
        let lines = self.lines.iter().map(|line| {
            let comment = line
                .char_indices()
                .find(|(at, c)| *c == '#' && line[..*at].chars().next_back().is_none_or(char::is_whitespace));
            comment.map_or(line.as_str(), |(at, _)| &line[..at]).trim_end()
        });
        lines.filter(|line| !line.is_empty()).collect()
    }

    fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// The commands that a reader types, each as its words. Only the first of a pipe is kept.
    fn commands(&self) -> Vec<Vec<String>> {
        let text = self.text().replace("\\\n", " ");
        let typed = text.lines().filter_map(|line| line.trim_start().strip_prefix("$ "));
        typed.map(|line| words(line).into_iter().take_while(|word| word != "|" && word != "&").collect()).collect()
    }
}

/// The words of a command line, as a shell would split them.
fn words(line: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(mark) if c == mark => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == ' ' => found.push(String::new()),
            Some(_) | None => found.last_mut().unwrap().push(c),
        }
    }
    found.retain(|word| !word.is_empty());
    found
}

/// What follows the name of our program, if this is a command of it.
fn ours(words: &[String]) -> Option<&[String]> {
    let cargo = ["cargo", "run", "--release", "--"];
    if words.len() > cargo.len() && words.iter().zip(cargo).all(|(word, expected)| word == expected) {
        return Some(&words[cargo.len()..]);
    }
    let (program, arguments) = words.split_first()?;
    (program.rsplit('/').next() == Some("scrapetarget-exporter")).then_some(arguments)
}

/// The commands of our program that a page shows or names.
fn our_commands(page: &str) -> Vec<Vec<String>> {
    let names: BTreeSet<String> =
        Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let mut found = Vec::new();
    for section in sections(page) {
        let shown = section.blocks.iter().filter(|block| block.language == "console").flat_map(Block::commands);
        found.extend(shown.filter_map(|words| ours(&words).map(<[String]>::to_vec)));
        for words in section.spans().iter().map(|span| words(span)) {
            if let Some(arguments) = ours(&words).filter(|arguments| !arguments.is_empty()) {
                found.push(arguments.to_vec());
            } else if words.len() > 1 && names.contains(&words[0]) {
                found.push(words);
            }
        }
    }
    found
}

/// Whether the chart has a value at this place. What is below an empty map is up to the user.
fn has_value(values: &Value, place: &str) -> bool {
    let mut here = values;
    for key in place.split('.') {
        here = match here {
            Value::Object(map) if map.is_empty() => return true,
            Value::Object(map) => match map.get(key.split('[').next().unwrap()) {
                Some(inner) => inner,
                None => return false,
            },
            _ => return false,
        };
    }
    true
}

fn values() -> Value {
    let text = read("charts/scrapetarget-exporter/values.yaml");
    documents(&text).next().unwrap().value().unwrap_or_else(|error| panic!("{}", error.message))
}

/// The places of all that a file of values sets.
fn leaves(value: &Value, place: &str, found: &mut Vec<String>) {
    match value.as_object() {
        Some(map) if !map.is_empty() => {
            for (key, inner) in map {
                let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                leaves(inner, &place, found);
            }
        }
        _ => found.push(place.to_owned()),
    }
}

/// The places of values of the chart that a page sets or names.
fn named_values(page: &str, values: &Value) -> BTreeSet<String> {
    let mut found = Vec::new();
    for section in sections(page) {
        found.extend(section.value_rows().into_iter().map(|(place, _)| place.to_owned()));
        for block in &section.blocks {
            for words in block.commands().iter().filter(|words| words[0] == "helm") {
                let set = words.windows(2).filter(|pair| pair[0] == "--set").flat_map(|pair| pair[1].split(','));
                found.extend(set.map(|part| part.split('=').next().unwrap().to_owned()));
            }
            let of_others = ["apiVersion:", "scrape_configs:", "containers:"];
            if block.language == "yaml" && !of_others.iter().any(|word| block.text().contains(word)) {
                leaves(&documents(&block.text()).next().unwrap().value().unwrap(), "", &mut found);
            }
        }
        for span in section.spans() {
            let place = span.split([':', '=', ' ']).next().unwrap();
            let (first, rest) = place.split_once('.').unwrap_or((place, ""));
            let is_file = Path::new(place).extension().is_some_and(|end| end == "yaml");
            let is_other = is_file || place.contains('/') || OF_ALLOY.contains(&place);
            if !rest.is_empty() && !is_other && values.get(first).is_some() {
                found.push(place.to_owned());
            }
        }
    }
    found.into_iter().collect()
}

#[test]
fn both_readmes_have_the_same_sections() {
    let levels = |page| sections(page).iter().map(|section| section.level).collect::<Vec<_>>();
    assert_eq!(levels(ENGLISH), levels(JAPANESE));
}

#[test]
fn both_readmes_show_the_same_code_apart_from_comments() {
    for (english, japanese) in sections(ENGLISH).iter().zip(&sections(JAPANESE)) {
        let shown = |section: &Section| -> Vec<(String, Vec<String>)> {
            let owned = |block: &Block| block.code().into_iter().map(ToOwned::to_owned).collect();
            section.blocks.iter().map(|block| (block.language.clone(), owned(block))).collect()
        };
        assert_eq!(shown(english), shown(japanese), "{} and {}", english.heading, japanese.heading);
    }
}

#[test]
fn each_section_names_the_same_things_in_both_languages() {
    for (english, japanese) in sections(ENGLISH).iter().zip(&sections(JAPANESE)) {
        let names = |section: &Section| section.spans().into_iter().collect::<BTreeSet<_>>();
        assert_eq!(names(english), names(japanese), "{} and {}", english.heading, japanese.heading);
        assert_eq!(english.links(), japanese.links(), "{} and {}", english.heading, japanese.heading);
        assert_eq!(english.pictures(), japanese.pictures(), "{} and {}", english.heading, japanese.heading);
    }
}

#[test]
fn each_readme_leads_to_the_other_one_at_its_top() {
    for (page, other) in [(ENGLISH, JAPANESE), (JAPANESE, ENGLISH)] {
        assert!(sections(page)[1].prose.contains(&format!("]({other})")), "{page}");
    }
}

#[test]
fn links_within_a_readme_lead_to_the_same_sections_in_both_languages() {
    let led_to = |page: &str| -> Vec<BTreeSet<usize>> {
        let anchors = pages::anchors(&read(page));
        let place = |link: &str| {
            anchors.iter().position(|anchor| anchor == link).unwrap_or_else(|| panic!("{page}: nothing is at #{link}"))
        };
        sections(page).iter().map(|section| section.anchors().into_iter().map(place).collect()).collect()
    };
    let (english, japanese) = (led_to(ENGLISH), led_to(JAPANESE));
    assert!(english.iter().flatten().count() > 10, "{english:?}");
    for (section, links) in sections(ENGLISH).iter().zip(english.iter().zip(&japanese)) {
        assert_eq!(links.0, links.1, "{}", section.heading);
    }
}

#[test]
fn every_picture_is_there() {
    for page in BOTH {
        let sections = sections(page);
        let pictures: Vec<&str> = sections.iter().flat_map(Section::pictures).collect();
        assert!(pictures.len() > 1, "{page}: {pictures:?}");
        for picture in pictures {
            assert!(root().join(picture).is_file(), "{page} shows {picture}");
        }
    }
}

#[test]
fn every_command_of_ours_is_one_that_the_program_takes() {
    for page in BOTH {
        let commands = our_commands(page);
        assert!(commands.len() > 5, "{page}: {commands:?}");
        for words in commands {
            let command = Cli::command();
            let name = &words[0];
            assert!(command.find_subcommand(name).is_some(), "{page}: there is no command {name}");
            // The name alone is a mention, not something to type.
            if words.len() > 1 {
                let line = ["scrapetarget-exporter"].into_iter().chain(words.iter().map(String::as_str));
                assert!(Cli::parse_line(line).is_ok(), "{page}: {}", words.join(" "));
            }
        }
    }
}

#[test]
fn every_flag_that_is_named_exists() {
    let command = Cli::command();
    let flags: BTreeSet<&str> = command
        .get_subcommands()
        .flat_map(|command| command.get_arguments().filter_map(|arg| arg.get_long()))
        .collect();
    for page in BOTH {
        let spans: Vec<String> = sections(page).iter().flat_map(Section::spans).collect();
        let named: BTreeSet<&str> = spans
            .iter()
            .filter_map(|span| span.strip_prefix("--"))
            .map(|flag| flag.split(['=', ' ']).next().unwrap())
            // Helm's, not ours.
            .filter(|flag| *flag != "set")
            .collect();
        assert!(named.len() > 2, "{page}: {named:?}");
        let invented: Vec<_> = named.difference(&flags).collect();
        assert!(invented.is_empty(), "{page} names flags that do not exist: {invented:?}");
    }
}

#[test]
fn every_value_that_is_named_is_one_of_the_chart() {
    let values = values();
    for page in BOTH {
        let named = named_values(page, &values);
        assert!(named.len() > 15, "{page}: {named:?}");
        let invented: Vec<_> = named.iter().filter(|place| !has_value(&values, place)).collect();
        assert!(invented.is_empty(), "{page} names values that the chart does not have: {invented:?}");
    }
}

#[test]
fn the_most_important_values_stand_there_with_their_defaults() {
    let values = values();
    for page in BOTH {
        let sections = sections(page);
        let rows: Vec<_> = sections.iter().flat_map(Section::value_rows).collect();
        assert!(rows.len() > 10, "{page}: {rows:?}");
        for (place, default) in rows {
            let value = place.split('.').fold(&values, |value, key| &value[key]);
            assert_eq!(default, value.to_string(), "{page}: {place}");
        }
    }
}

#[test]
fn every_file_that_is_named_is_there() {
    let folders = ["charts/", "crds/", "deploy/", "docs/", "tests/"];
    for page in BOTH {
        let mut named = BTreeSet::new();
        for section in sections(page) {
            named.extend(section.spans().iter().flat_map(|span| words(span)));
            named.extend(section.blocks.iter().flat_map(Block::commands).flatten());
            named.extend(section.links().into_iter().map(|link| link.split('#').next().unwrap().to_owned()));
        }
        named.retain(|word| folders.iter().any(|folder| word.starts_with(folder)));
        assert!(named.len() > 10, "{page}: {named:?}");
        let missing: Vec<_> = named.iter().filter(|path| !root().join(path).exists()).collect();
        assert!(missing.is_empty(), "{page} names files that do not exist: {missing:?}");
    }
}

#[test]
fn make_has_every_target_that_is_named() {
    let makefile = read("Makefile");
    for page in BOTH {
        for section in sections(page) {
            let shown = section.blocks.iter().flat_map(Block::commands);
            for words in shown.chain(section.spans().iter().map(|span| words(span))).filter(|words| words[0] == "make")
            {
                for target in words[1..].iter().filter(|word| !word.contains('=')) {
                    let rule = format!("{target}:");
                    assert!(makefile.lines().any(|line| line.starts_with(&rule)), "{page}: make {target}");
                }
            }
        }
    }
}
