//! What is wanted to differ. The list is closed: anything else that differs is a mistake, and so is an entry that no longer occurs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::comparison::Found;
use super::row::Row;
use super::sides::VERSION;

/// How a family differs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Only we have it.
    Ours,
    /// Only they have it.
    Theirs,
    /// Both have it, ours with one more label: `family{label}`.
    Label,
    /// Both have it, with other series.
    Series,
    /// Both have the series, with another value.
    Value,
}

/// Where a difference may occur. It must occur somewhere there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rows {
    All,
    /// All of a prober.
    Of(&'static str),
    /// Those that name it, and there it must.
    Named,
    /// The same, of the rows that are probed in namespaces.
    NamedInNamespaces,
}

#[derive(Debug)]
pub struct Difference {
    /// By what a row refers to it.
    pub name: &'static str,
    /// Names of families; `*` at the end stands for any end.
    pub families: &'static [&'static str],
    pub shapes: &'static [Shape],
    pub rows: Rows,
    /// For the docs: when, what they do, what we do, and why.
    pub when: &'static str,
    pub theirs: &'static str,
    pub ours: &'static str,
}

pub const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "about the poll",
        families: &[
            "probe_failure_info",
            "probe_timestamp_seconds",
            "probe_call_*",
            "probe_series_dropped",
            "probe_skipped_fields",
        ],
        shapes: &[Shape::Ours],
        rows: Rows::All,
        when: "always",
        theirs: "absent",
        ours: "why the probe failed, when it was, how each call went, and what was left out",
    },
    Difference {
        name: "timeout",
        families: &["probe_timeout_seconds"],
        shapes: &[Shape::Ours],
        rows: Rows::All,
        when: "always",
        theirs: "absent; in newer versions, what the scrape allows",
        ours: "`timeout`, if the probe ended in time also where the scrape allows less: one probe may serve several scrapes, and goes on \
               when a scrape gives up",
    },
    Difference {
        name: "serial number",
        families: &["probe_ssl_last_chain_info{serialnumber}"],
        shapes: &[Shape::Label],
        rows: Rows::All,
        when: "TLS",
        theirs: "without the label; newer versions have it",
        ours: "with the label",
    },
    Difference {
        name: "cipher suite",
        families: &["probe_tls_cipher_info"],
        shapes: &[Shape::Ours],
        rows: Rows::All,
        when: "TLS",
        theirs: "absent; newer versions have it in the HTTP prober",
        ours: "the cipher suite",
    },
    Difference {
        name: "certificates that are refused",
        families: &["probe_ssl_*", "probe_tls_*"],
        shapes: &[Shape::Ours],
        rows: Rows::Named,
        when: "the certificate of the server is refused",
        theirs: "absent, so that the warning of a certificate that ends vanishes when it has ended",
        ours: "as sent; only the end of the verified chain is absent",
    },
    Difference {
        name: "no answer over TLS",
        families: &["probe_ssl_*", "probe_tls_*"],
        shapes: &[Shape::Ours],
        rows: Rows::Named,
        when: "type Http, and there is TLS but no answer",
        theirs: "absent",
        ours: "as for every connection with TLS",
    },
    Difference {
        name: "redirect that leads nowhere",
        families: &["probe_http_redirects"],
        shapes: &[Shape::Value],
        rows: Rows::Named,
        when: "a redirect leads to what is no URL",
        theirs: "does not count it",
        ours: "counts it",
    },
    Difference {
        name: "processing without an answer",
        families: &["probe_http_duration_seconds"],
        shapes: &[Shape::Value],
        rows: Rows::Named,
        when: "what a web server sends is no head of an answer, or not a whole one",
        theirs: "`phase=\"processing\"` ends with its first byte",
        ours: "it ends with the head, and is 0 without one",
    },
    Difference {
        name: "transfer of a redirect",
        families: &["probe_http_duration_seconds"],
        shapes: &[Shape::Value],
        rows: Rows::Named,
        when: "a redirect is not followed",
        theirs: "`phase=\"transfer\"` is the time until its body is dropped",
        ours: "0: its body is not read",
    },
    Difference {
        name: "no verified chain",
        families: &["probe_ssl_last_chain_expiry_timestamp_seconds"],
        shapes: &[Shape::Theirs],
        rows: Rows::Named,
        when: "`insecureSkipVerify: true`",
        theirs: "−62135596800, for which alerts about certificates that end soon fire",
        ours: "absent: no chain was verified",
    },
    Difference {
        name: "credentials for another host",
        families: &[
            "probe_success",
            "probe_http_status_code",
            "probe_http_content_length",
            "probe_http_uncompressed_body_length",
        ],
        shapes: &[Shape::Value],
        rows: Rows::Named,
        when: "a redirect leads to another host",
        theirs: "sends the credentials there; newer versions do not",
        ours: "does not",
    },
    Difference {
        name: "bytes that were expected",
        families: &["probe_failed_due_to_bytes"],
        shapes: &[Shape::Ours],
        rows: Rows::Of("tcp"),
        when: "type Tcp",
        theirs: "absent; newer versions have it once they are connected",
        ours: "always",
    },
    Difference {
        name: "phases of TCP",
        families: &["probe_tcp_duration_seconds"],
        shapes: &[Shape::Ours],
        rows: Rows::Of("tcp"),
        when: "type Tcp",
        theirs: "absent",
        ours: "the time of each phase",
    },
    Difference {
        name: "answer of DNS",
        families: &["probe_dns_rcode", "probe_dns_flag", "probe_dns_answer_hash"],
        shapes: &[Shape::Ours],
        rows: Rows::Of("dns"),
        when: "type Dns",
        theirs: "absent",
        ours: "the response code, the flags `aa`, `tc` and `ad`, and a hash of the answer",
    },
    Difference {
        name: "TLS of DNS",
        families: &["probe_ssl_*", "probe_tls_*"],
        shapes: &[Shape::Ours],
        rows: Rows::Named,
        when: "type Dns over TLS",
        theirs: "absent",
        ours: "as for every connection with TLS",
    },
    Difference {
        name: "a question for an answer",
        families: &["probe_success", "probe_dns_query_succeeded"],
        shapes: &[Shape::Value],
        rows: Rows::Named,
        when: "a name server sends the question back",
        theirs: "takes it for an answer without records",
        ours: "fails",
    },
    Difference {
        name: "fewer records than promised",
        families: &["probe_dns_query_succeeded"],
        shapes: &[Shape::Value],
        rows: Rows::Named,
        when: "a reply of DNS has fewer records than it says",
        theirs: "takes those that are there",
        ours: "fails",
    },
    Difference {
        name: "serial of no zone",
        families: &["probe_dns_serial"],
        shapes: &[Shape::Theirs],
        rows: Rows::Named,
        when: "the reply to a question for SOA has none",
        theirs: "0",
        ours: "absent",
    },
    Difference {
        name: "certificate of gRPC",
        families: &["probe_ssl_earliest_cert_expiry"],
        shapes: &[Shape::Theirs, Shape::Value],
        rows: Rows::Of("grpc"),
        when: "type Grpc, without TLS or with a certificate that is refused",
        theirs: "0, for which alerts about certificates that end soon fire; absent in newer versions",
        ours: "absent without TLS, else as sent",
    },
    Difference {
        name: "deadline of gRPC",
        families: &["probe_success", "probe_grpc_status_code", "probe_grpc_healthcheck_response", "probe_grpc_ssl"],
        shapes: &[Shape::Value, Shape::Ours, Shape::Theirs],
        rows: Rows::Named,
        when: "a gRPC server is slow",
        theirs: "waits longer than its timeout; newer versions do not",
        ours: "fails at the timeout",
    },
    Difference {
        name: "last chain of gRPC",
        families: &["probe_ssl_last_chain_expiry_timestamp_seconds"],
        shapes: &[Shape::Ours],
        rows: Rows::Named,
        when: "type Grpc with TLS",
        theirs: "absent",
        ours: "the end of the verified chain",
    },
];

impl Difference {
    pub fn covers(&self, row: &Row, found: &Found) -> bool {
        let here = match self.rows {
            Rows::All => true,
            Rows::Of(prober) => row.prober == prober,
            Rows::Named | Rows::NamedInNamespaces => row.differs.contains(&self.name),
        };
        here && self.shapes.contains(&found.shape)
            && self.families.iter().any(|family| match family.strip_suffix('*') {
                Some(start) => found.family.starts_with(start),
                None => found.family == *family,
            })
    }
}

const BEGIN: &str = "<!-- differences: begin -->\n";
const END: &str = "<!-- differences: end -->";

#[test]
fn the_page_of_the_probers_lists_each_difference() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/probers.md");
    let found = fs::read_to_string(&page).unwrap();
    let (before, rest) = found.split_once(BEGIN).expect("the mark where the table begins");
    let (_, after) = rest.split_once(END).expect("the mark where the table ends");
    let mut table = format!(
        "Compared with version {VERSION}:\n\n| family | when | blackbox exporter | here |\n|---|---|---|---|\n"
    );
    for Difference { families, when, theirs, ours, .. } in DIFFERENCES {
        let families: Vec<String> = families.iter().map(|family| format!("`{}`", family.replace('*', "…"))).collect();
        let _ = writeln!(table, "| {} | {when} | {theirs} | {ours} |", families.join(", "));
    }
    let expected = format!("{before}{BEGIN}{table}{END}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&page, &expected).unwrap();
        return;
    }
    assert!(found == expected, "docs/probers.md does not list the differences as they are: run `make generate`");
}

#[test]
fn each_difference_has_a_name_of_its_own() {
    let names: BTreeSet<&str> = DIFFERENCES.iter().map(|difference| difference.name).collect();
    assert_eq!(names.len(), DIFFERENCES.len());
}
