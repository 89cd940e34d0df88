//! How HTTP/2 came to an end. The types of the library that speaks it are not ours to name: its errors are told apart by their texts.

use std::error::Error;

/// The bytes of the header of a frame.
const FRAME_HEADER: usize = 9;

/// What ended a request, or its connection, by the rules of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kind) enum Http2End {
    /// The server reset the request.
    Reset,
    /// The server ended the connection with a frame that says so.
    GoneAway,
    /// The server sent more headers, or more frames that are no answer, than are taken.
    TooMuch,
    /// The server sent more of a body than it had been allowed to.
    BeyondWindow,
    /// The server broke another rule. The library has the same code for a header that is too large, and for a body that is longer than its
    /// `Content-Length`.
    Broken,
}

impl Http2End {
    /// None: it was something else, for instance the connection under it.
    pub(in crate::kind) fn of(error: &hyper::Error) -> Option<Self> {
        let mut cause: Option<&dyn Error> = Some(error);
        while let Some(error) = cause {
            if let Some(end) = Self::read(&error.to_string()) {
                return Some(end);
            }
            cause = error.source();
        }
        None
    }

    /// What a server says in a GOAWAY stands at the end of a text, so only beginnings count.
    fn read(text: &str) -> Option<Self> {
        let (event, code) = text.split_once(": ")?;
        match event {
            "stream error received" => Some(Self::Reset),
            "connection error received" => Some(Self::GoneAway),
            "stream error detected" | "connection error detected" => Some(match code {
                "flow-control protocol violated" => Self::BeyondWindow,
                // With these, headers are so much larger than we take that they cannot even be skipped.
                _ if code.starts_with("unable to maintain the header compression") => Self::TooMuch,
                _ if code.starts_with("detected excessive load") => Self::TooMuch,
                _ => Self::Broken,
            }),
            _ => None,
        }
    }

    /// What happened, as part of a sentence.
    pub(in crate::kind) const fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "the server reset the request (RST_STREAM)",
            Self::GoneAway => "the server ended the connection (GOAWAY)",
            Self::TooMuch => "the server sent more headers, or more frames without a part of the answer, than are read",
            Self::BeyondWindow => "the server sent more of the answer than HTTP/2 allowed it to at once",
            Self::Broken => {
                "the server broke a rule of HTTP/2, or sent a longer header than is read, or a longer body than it had announced"
            }
        }
    }
}

/// Whether the first bytes from a server are those of HTTP/2: a frame with its settings, on stream 0.
pub(in crate::kind) fn begins_http2(first: &[u8]) -> bool {
    matches!(first.get(..FRAME_HEADER), Some([0, _, _, 4, 0, 0, 0, 0, 0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_who_ended_it_and_why() {
        for (text, end) in [
            ("stream error received: refused stream before processing any application logic", Some(Http2End::Reset)),
            (
                "connection error received: flow-control protocol violated (b\": stream error detected: x\")",
                Some(Http2End::GoneAway),
            ),
            (
                "connection error detected: detected excessive load generating behavior (b\"too_many_resets\")",
                Some(Http2End::TooMuch),
            ),
            ("stream error detected: flow-control protocol violated", Some(Http2End::BeyondWindow)),
            ("connection error detected: frame with invalid size", Some(Http2End::Broken)),
            ("connection reset by peer", None),
            ("operation was canceled", None),
        ] {
            assert_eq!(Http2End::read(text), end, "{text}");
        }
    }
}
