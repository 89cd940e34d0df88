//! Why a server ends a connection right after the handshake. In TLS 1.3 it judges our certificate when the handshake is over for us: an HTTP
//! client that has not sent its request by then reports only that the connection is gone, not the alert that says why.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::TlsConnector;

/// Shakes hands over this new connection, sends nothing, and waits for what the server says. The error of TLS, if it ends the connection
/// with one; the caller bounds the time, since a server that has no objection waits for a request.
pub async fn refusal<S>(stream: S, config: Arc<ClientConfig>, name: ServerName<'static>) -> Option<rustls::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ended = match TlsConnector::from(config).connect(name, stream).await {
        Ok(mut stream) => stream.read(&mut [0]).await.err(),
        Err(error) => Some(error),
    };
    ended?.into_inner()?.downcast::<rustls::Error>().ok().map(|error| *error)
}
