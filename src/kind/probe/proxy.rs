//! The way of a probe through a proxy, whose address is judged like any other.

use std::net::SocketAddr;

use reqwest::Url;
use tokio::time::timeout_at;

use super::{BoxedStream, Probe};
use crate::dial::{JudgedAddress, ServerRole, TargetProxy};
use crate::failure::{CallError, Reason};

impl<'p> Probe<'p> {
    /// The proxy through which this url is reached.
    pub(in crate::kind) fn proxy_for(&self, url: &Url) -> Option<&'p TargetProxy> {
        self.proxy.filter(|proxy| proxy.serves(url))
    }

    /// The address of the proxy. It counts as one that is probed where nothing else does, since only the proxy knows the address of the server.
    pub(in crate::kind) async fn resolve_proxy(
        &mut self,
        proxy: &TargetProxy,
        counts: bool,
    ) -> Result<JudgedAddress, CallError> {
        let resolved = self.dialer.resolve(proxy.host(), self.deadline).await;
        let address = resolved.map_err(|error| proxy.error(&error))?;
        if counts {
            self.admit(address).await?;
        }
        Ok(address)
    }

    /// A connection to the proxy at this address or, through it, to the host and port in `tunnel`.
    ///
    /// Reasons: `connect`, `unreachable`, `timeout`, `tls`, `auth`, `limit`, `protocol`.
    pub(in crate::kind) async fn connect_through(
        &mut self,
        proxy: &TargetProxy,
        at: JudgedAddress,
        tunnel: Option<(&str, u16)>,
    ) -> Result<BoxedStream, CallError> {
        let of_proxy = |error: CallError| proxy.error(&error);
        let port = proxy.port();
        let stream = self.dialer.connect(at, port, self.deadline).await.map_err(of_proxy)?;
        self.record.event(format!("connected to the proxy {}", SocketAddr::new(at.ip(), port)));
        let mut stream: BoxedStream = Box::new(stream);
        if proxy.is_tls() {
            let handshake = self.dialer.handshake(stream, ServerRole::Proxy, proxy.host(), &[], self.deadline);
            stream = Box::new(handshake.await.0.map_err(of_proxy)?);
        }
        let Some((host, port)) = tunnel else { return Ok(stream) };
        let opening = timeout_at(self.deadline, proxy.open_tunnel(stream, host, port));
        let stream = opening
            .await
            .map_err(|_| of_proxy(CallError::new(Reason::Timeout, "the proxy did not answer in time")))??;
        self.record.event(format!("opened a tunnel to {host}, port {port}"));
        Ok(stream)
    }
}
