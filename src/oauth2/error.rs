//! Why there is no token, in words of our own: the status of an answer and one of a few words are all that a server can say.

use super::settings::PASSWORD;
use crate::failure::{CallError, Reason};

/// What a token endpoint answers to a request that it does not fulfil: the closed set of RFC 6749, 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// The request lacks something, or has it twice.
    InvalidRequest,
    /// The client is not known, or has not authenticated itself.
    InvalidClient,
    /// The credentials of the user are wrong.
    InvalidGrant,
    /// The client may not use the grant.
    UnauthorizedClient,
    /// The server does not offer the grant.
    UnsupportedGrantType,
    /// A scope is not known, or the client may not have it.
    InvalidScope,
}

impl TokenRefusal {
    const ALL: [Self; 6] = [
        Self::InvalidRequest,
        Self::InvalidClient,
        Self::InvalidGrant,
        Self::UnauthorizedClient,
        Self::UnsupportedGrantType,
        Self::InvalidScope,
    ];

    /// The word of the RFC.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope => "invalid_scope",
        }
    }

    /// The one that `text` begins with: `invalid_client`, or as some servers write it, `Invalid client: client is invalid`.
    pub(super) fn of(text: &str) -> Option<Self> {
        let word = text.split(':').next().unwrap_or_default().trim();
        let is = |refusal: &Self| {
            let same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || a == b'_' && matches!(b, b' ' | b'-');
            let name = refusal.as_str();
            name.len() == word.len() && name.bytes().zip(word.bytes()).all(same)
        };
        Self::ALL.into_iter().find(is)
    }

    /// What it means, and what to change.
    fn advice(self, grant: &str) -> String {
        match self {
            Self::InvalidRequest => {
                "the token endpoint does not understand the request: correct endpointParams and scopes, and write \
                                     clientAuthentication: Body if it wants the client in the body"
                    .to_owned()
            }
            Self::InvalidClient => {
                "the token endpoint does not know the client, or its secret is wrong: correct clientId and clientSecret"
                    .to_owned()
            }
            Self::InvalidGrant if grant == PASSWORD => {
                "the token endpoint does not accept the user or the password: correct the values of user".to_owned()
            }
            Self::InvalidGrant => {
                "the token endpoint issues no token to this client alone: its log says why; write user if it decides about users only"
                    .to_owned()
            }
            Self::UnauthorizedClient => {
                format!("the grant is not enabled for this application: enable {grant} where the client is registered")
            }
            Self::UnsupportedGrantType => {
                format!(
                    "the token endpoint does not offer the grant {grant}: correct tokenUrl, or enable the grant there"
                )
            }
            Self::InvalidScope => {
                "the token endpoint does not grant these scopes: correct scopes, or allow the client to have them"
                    .to_owned()
            }
        }
    }
}

/// Why a request gave no token. Its message is for users, begins with `token: `, and quotes no server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenError {
    /// What it says, without `token: `.
    message: String,
    /// The value of the label `outcome`: one of a closed set.
    pub outcome: &'static str,
    /// The endpoint cannot be reached, or does not work: whatever is asked of it, it fails.
    pub is_outage: bool,
    /// The client may not have been understood: it may have to authenticate itself in another way.
    pub may_be_style: bool,
    /// What the endpoint says, if it says that in a word of the RFC.
    pub refusal: Option<TokenRefusal>,
}

impl TokenError {
    /// There is no answer.
    pub fn unanswered(error: &CallError) -> Self {
        let reason = error.reason.as_str();
        Self {
            message: format!("{reason}: {}", error.message),
            outcome: reason,
            is_outage: error.reason != Reason::Limit,
            may_be_style: false,
            refusal: None,
        }
    }

    /// The answer is a refusal.
    pub(super) fn refused(status: u16, refusal: Option<TokenRefusal>, grant: &str) -> Self {
        let message = match (refusal, status) {
            (Some(refusal), _) => format!("answered {status} {}: {}", refusal.as_str(), refusal.advice(grant)),
            (None, 300..=399) => {
                format!("answered {status}: redirects are not followed, write the final URL into tokenUrl")
            }
            (None, 404 | 405) => format!("answered {status}: there is no token endpoint, correct tokenUrl"),
            (None, 401) => format!("answered {status}: {}", TokenRefusal::InvalidClient.advice(grant)),
            (None, 429) => format!("answered {status}: it has been asked too often"),
            (None, 500..) => format!("answered {status}: the token endpoint does not work, its log says why"),
            (None, _) => format!(
                "answered {status} without an error of OAuth 2.0: correct tokenUrl, clientId, and endpointParams if it wants an audience or \
                 resource"
            ),
        };
        Self {
            message,
            outcome: refusal.map_or("http_status", TokenRefusal::as_str),
            // What depends on the url and not on the client holds for all its tokens. 500 may be an answer to this client alone.
            is_outage: refusal.is_none() && matches!(status, 300..=399 | 404 | 405 | 407 | 429 | 502..=504),
            may_be_style: matches!(status, 400 | 401),
            refusal,
        }
    }

    /// The answer is no token, though it should be one.
    pub(super) fn unusable(what: &str) -> Self {
        Self {
            message: format!("parse: {what}"),
            outcome: Reason::Parse.as_str(),
            is_outage: false,
            may_be_style: false,
            refusal: None,
        }
    }

    /// The answer is no document of a token endpoint, which holds for all its tokens.
    pub(super) fn no_document() -> Self {
        Self { is_outage: true, ..Self::unusable("the answer is no JSON object: correct tokenUrl") }
    }

    /// There was no turn for the request.
    pub fn no_turn() -> Self {
        let message = "too many token requests are under way: this one had to wait until its time was over".to_owned();
        Self { message, outcome: Reason::Limit.as_str(), is_outage: false, may_be_style: false, refusal: None }
    }

    /// A bug.
    pub fn aborted() -> Self {
        let message = "the request was aborted: please report this".to_owned();
        Self { message, outcome: Reason::Internal.as_str(), is_outage: false, may_be_style: false, refusal: None }
    }

    /// Whether it says nothing about the endpoint: our own memory, or an answer that is too large.
    pub fn is_our_limit(&self) -> bool {
        self.outcome == Reason::Limit.as_str()
    }

    /// Whether the other one, of the same request in another style, tells more.
    pub fn says_less_than(&self, other: &Self) -> bool {
        let weight = |error: &Self| match error.refusal {
            _ if error.is_outage => 3,
            None => 0,
            Some(TokenRefusal::InvalidRequest) => 1,
            Some(TokenRefusal::InvalidClient) => 2,
            Some(_) => 3,
        };
        weight(self) < weight(other)
    }

    /// The same without the beginning.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error of a call that would need the token.
    pub fn call_error(&self) -> CallError {
        CallError::new(Reason::Auth, format!("token: {}", self.message))
    }
}
