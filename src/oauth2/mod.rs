//! OAuth 2.0 as far as it needs no network and no clock: what a token depends on, the request for one, and what the answer says. Pure.
//!
//! It reads leniently, since servers keep to RFC 6749 in their own ways, and it never quotes a server: an answer may be that of another
//! server than the user may read.

mod answer;
mod error;
mod request;
mod settings;

pub use answer::{IssuedToken, read};
pub use error::{TokenError, TokenRefusal};
pub use request::{TokenRequest, encoded};
pub use settings::{ClientAuthStyles, ClientStyle, HiddenValue, OAuth2Settings, TokenSettings, TokenUser};
