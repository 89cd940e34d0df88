//! Why a poll failed: the closed set of reasons, and an error with its message. Pure.

/// Why a poll or one of its calls failed: the closed set of the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Nothing has been polled yet.
    Pending,
    /// `spec.suspend` is true.
    Suspended,
    /// The declaration of the target cannot be used: a Secret is missing, its address is not allowed, …
    Config,
    /// The target has no members.
    NoMembers,
    /// The host's name has no address, or the name servers did not answer.
    Dns,
    /// No TCP connection, or it broke before there was an answer.
    Connect,
    /// No TLS session: certificate, name, protocol.
    Tls,
    /// `spec.timeout` or the scrape's own timeout passed.
    Timeout,
    /// An answer with another status than the call wants.
    HttpStatus,
    /// 401 or 403.
    Auth,
    /// The body ended early, broke off, or was badly compressed.
    Body,
    /// The body is not what it should be: HTML, truncated JSON, text that is no exposition.
    Parse,
    /// Well-formed, but not the document that this kind speaks.
    Schema,
    /// Larger than `--max-body-bytes`, deeper than JSON may be, more series than `spec.sampleLimit`, or more probes of one address than the
    /// operator allows.
    Limit,
    /// The answer came and is not the wanted one: a regular expression, bytes or a record did not match.
    Match,
    /// The answer came and says no: a code, a version, a redirect that is one too many, TLS where there should be none.
    Response,
    /// What came is no answer of this protocol.
    Protocol,
    /// The system does not let the exporter open the socket that the probe needs.
    Permission,
    /// The network says that the address cannot be reached.
    Unreachable,
    /// A bug of the exporter.
    Internal,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: &[Self] = &[
        Self::Pending,
        Self::Suspended,
        Self::Config,
        Self::NoMembers,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::HttpStatus,
        Self::Auth,
        Self::Body,
        Self::Parse,
        Self::Schema,
        Self::Limit,
        Self::Match,
        Self::Response,
        Self::Protocol,
        Self::Permission,
        Self::Unreachable,
        Self::Internal,
    ];

    /// The value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Suspended => "suspended",
            Self::Config => "config",
            Self::NoMembers => "no_members",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::HttpStatus => "http_status",
            Self::Auth => "auth",
            Self::Body => "body",
            Self::Parse => "parse",
            Self::Schema => "schema",
            Self::Limit => "limit",
            Self::Match => "match",
            Self::Response => "response",
            Self::Protocol => "protocol",
            Self::Permission => "permission",
            Self::Unreachable => "unreachable",
            Self::Internal => "internal",
        }
    }

    /// The same as the reason of a condition, in CamelCase.
    pub const fn condition(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Suspended => "Suspended",
            Self::Config => "Config",
            Self::NoMembers => "NoMembers",
            Self::Dns => "Dns",
            Self::Connect => "Connect",
            Self::Tls => "Tls",
            Self::Timeout => "Timeout",
            Self::HttpStatus => "HttpStatus",
            Self::Auth => "Auth",
            Self::Body => "Body",
            Self::Parse => "Parse",
            Self::Schema => "Schema",
            Self::Limit => "Limit",
            Self::Match => "Match",
            Self::Response => "Response",
            Self::Protocol => "Protocol",
            Self::Permission => "Permission",
            Self::Unreachable => "Unreachable",
            Self::Internal => "Internal",
        }
    }
}

/// Why a call failed. The message is for users; it never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// The kind of failure.
    pub reason: Reason,
    /// What happened: a sentence without a full stop.
    pub message: String,
}

impl CallError {
    /// A failure with its reason.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}
