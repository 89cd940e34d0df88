//! Parsers of flag values. Each error says what to write instead.

use std::time::Duration;

use ipnet::IpNet;
use reqwest::Url;

use crate::crd::is_dns_label;
use crate::kind::Type;
use crate::time::PromDuration;

/// `:9850`, `127.0.0.1:9850`, `[::1]:9850` or `localhost:9850`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress(String);

impl ListenAddress {
    /// The addresses to try to bind. A missing host means all addresses, of both IP versions if the host has both.
    pub fn candidates(&self) -> Vec<String> {
        match self.0.strip_prefix(':') {
            Some(port) => vec![format!("[::]:{port}"), format!("0.0.0.0:{port}")],
            None => vec![self.0.clone()],
        }
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        port.map(|_| Self(text.to_owned())).ok_or_else(|| "write HOST:PORT or :PORT, for instance :9850".to_owned())
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<PromDuration>().map(PromDuration::get).map_err(|error| error.to_string())
}

pub(super) fn cidr(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| "write ADDRESS/BITS, for instance 10.0.0.0/8 or fd00::/8".to_owned())
}

pub(super) fn health_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| "write an http or https URL, for instance http://127.0.0.1:9850/-/healthy".to_owned())
}

/// A duration within the limits of `spec.interval`.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    let range = Duration::from_secs(1)..=Duration::from_hours(1);
    if range.contains(&interval) { Ok(interval) } else { Err("write a duration from 1s to 1h".to_owned()) }
}

/// A duration within the limits of `spec.timeout`.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    let is_allowed = !timeout.is_zero() && timeout <= Duration::from_hours(1);
    is_allowed.then_some(timeout).ok_or_else(|| "write a duration above 0s, and 1h at most".to_owned())
}

pub(super) fn external_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}; write for instance https://exporter.example.com/"))?;
    if matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none() {
        Ok(url)
    } else {
        Err("write an http or https URL without query and fragment".to_owned())
    }
}

/// A number within the limits of `spec.sampleLimit`.
pub(super) fn sample_limit(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| (1..=1_000_000).contains(count));
    count.ok_or_else(|| "write a number of series from 1 to 1000000, for instance 100000".to_owned())
}

/// The most characters of the label `job` of a target, as in the CRD.
const LONGEST_JOB: usize = 256;

/// A value of the label `job`.
pub(super) fn job(text: &str) -> Result<String, String> {
    match text.chars().count() {
        1..=LONGEST_JOB => Ok(text.to_owned()),
        count => Err(format!("it has {count} characters, write 1 to {LONGEST_JOB}")),
    }
}

/// The name of a namespace, a Service or a release: a DNS label.
pub(super) fn namespace(text: &str) -> Result<String, String> {
    let fine = is_dns_label(text);
    fine.then(|| text.to_owned()).ok_or_else(|| "write up to 63 lowercase letters, digits and inner hyphens".to_owned())
}

/// A type that may be forbidden, or `none` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProberWord(pub(super) Option<Type>);

pub(super) fn prober(text: &str) -> Result<ProberWord, String> {
    if text == "none" {
        return Ok(ProberWord(None));
    }
    let probed = || Type::ALL.iter().copied().filter(|kind| kind.may_be_forbidden());
    let found = probed().find(|kind| kind.as_str().eq_ignore_ascii_case(text));
    found.map(|kind| ProberWord(Some(kind))).ok_or_else(|| {
        let words: Vec<&str> = probed().map(Type::as_str).collect();
        format!("write some of {}, or none", words.join(", "))
    })
}

/// A number of bytes: `4096`, `64KiB`, `16MiB`, `1GiB`.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => Some(0),
        "KiB" | "Ki" => Some(10),
        "MiB" | "Mi" => Some(20),
        "GiB" | "Gi" => Some(30),
        _ => None,
    };
    number
        .parse::<usize>()
        .ok()
        .zip(shift)
        .and_then(|(number, shift)| number.checked_mul(1_usize << shift))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "write a number of bytes above 0, for instance 16MiB or 16777216".to_owned())
}
