//! The parts of an answer that are read here, each on its own, by which a fuzzer judges how they are read.

use ::http::header::{HeaderValue, LAST_MODIFIED, SET_COOKIE};
use ::http::{HeaderMap, Method, StatusCode};
use reqwest::Url;

use super::cookies::CookieJar;
use super::decompress::Decompressor;
use super::request::{Hop, RequestTemplate};
use crate::dial::tunnel_status;
use super::{Compression, Options, judge, redirects};

/// The output of one step.
const STEP: usize = 512;

/// The most output of one body.
const MOST: usize = 1 << 20;

/// What was read.
#[derive(Debug)]
pub enum AnswerPart {
    /// How much a body was, and whether it was whole. It is not read beyond a mebibyte.
    Body {
        /// After decompression.
        length: usize,
        /// It ended where it may end.
        is_whole: bool,
    },
    /// What of the cookies that one server sets is sent to another one, and to itself.
    Cookies {
        /// To a server of another name.
        other: Option<String>,
        /// To the same server.
        same: Option<String>,
    },
    /// Where redirects lead, as it is shown, and whether the server there is sent what is secret.
    Redirect {
        /// The url.
        url: Url,
        /// As it is shown.
        shown: String,
        /// It gets credentials.
        is_at_home: bool,
    },
    /// `Last-Modified`.
    Modified(f64),
    /// The status of a proxy's answer.
    Tunnel(u16),
}

/// Where all redirects begin.
pub const HOME: &str = "https://www.web.test:8443/a/b?c";

/// Reads one part: which one is in the first byte.
pub fn read_part(input: &[u8]) -> Option<AnswerPart> {
    let (which, input) = input.split_first()?;
    let home = Url::parse(HOME).ok()?;
    let lines = || input.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
    match which {
        0 => read_body(Compression::Gzip, input),
        1 => read_body(Compression::Deflate, input),
        2 => read_body(Compression::Br, input),
        3 => {
            let headers: HeaderMap = lines().take(100).map(|line| (SET_COOKIE, line)).collect();
            let mut jar = CookieJar::default();
            jar.store(&home, &headers);
            let other = jar.header(&Url::parse("https://www.other.test:8443/a/b").ok()?);
            Some(AnswerPart::Cookies { other, same: jar.header(&home) })
        }
        4 => {
            let template = RequestTemplate::new(&home, Method::GET, &Options::default());
            let mut hop = Hop::first(&template);
            for location in lines().take(10) {
                hop = hop.next(&template, StatusCode::FOUND, &location).ok()?;
            }
            let shown = redirects::shown(&hop.url);
            Some(AnswerPart::Redirect { is_at_home: hop.is_at_home, url: hop.url, shown })
        }
        5 => {
            let headers = lines().take(1).map(|line| (LAST_MODIFIED, line)).collect();
            judge::last_modified(&headers).map(AnswerPart::Modified)
        }
        _ => tunnel_status(input).map(AnswerPart::Tunnel),
    }
}

fn read_body(compression: Compression, mut input: &[u8]) -> Option<AnswerPart> {
    let mut decompressor = Decompressor::new(Some(compression));
    let mut output = [0; STEP];
    let mut length = 0;
    while length < MOST {
        let step = decompressor.step(input, &mut output).ok()?;
        input = input.get(step.taken..)?;
        length += output.get(..step.made)?.len();
        if step.taken == 0 && step.made == 0 || input.is_empty() && step.made < STEP {
            break;
        }
    }
    Some(AnswerPart::Body { length, is_whole: decompressor.is_at_end() && input.is_empty() })
}
