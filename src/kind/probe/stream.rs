//! A connection of which it no longer matters whether it is encrypted.

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes in both directions.
pub(in crate::kind) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

/// A connection of either sort.
pub(in crate::kind) type BoxedStream = Box<dyn ByteStream>;
