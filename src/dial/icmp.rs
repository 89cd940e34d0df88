//! ICMP echo without privileges: a datagram socket, which Linux gives to the groups in `net.ipv4.ping_group_range`. It chooses the identifier
//! of the requests, computes their checksum, and gives back only what belongs to them.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::error::reason_of;
use super::{Dialer, JudgedAddress};
use crate::failure::{CallError, Reason};

/// The header of a packet of ICMP.
pub const ICMP_HEADER: usize = 8;

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoSettings {
    /// How many routers may pass a request on.
    pub ttl: u8,
    /// Whether routers, and this machine, may not divide it.
    pub dont_fragment: bool,
}

/// What came to a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EchoArrival {
    /// A packet of so many bytes: header and payload are in the buffer.
    Packet {
        /// Bytes in the buffer. More than it holds are cut off.
        length: usize,
        /// The TTL or hop limit that it came with.
        hop_limit: Option<u8>,
    },
    /// A request was refused on its way. So much of it as the refusal repeats is in the buffer.
    Refusal {
        /// Bytes in the buffer.
        length: usize,
        /// By whom and why.
        refusal: IcmpRefusal,
    },
}

/// An ICMP error, or one of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpRefusal {
    /// Who sent it; none if it is this machine.
    from: Option<IpAddr>,
    is_ipv4: bool,
    kind: u8,
    code: u8,
    /// The number of the error, where this machine refuses.
    errno: i32,
    /// The largest packet that the way takes, if that is why.
    mtu: u32,
}

/// Where the kernel says that an error comes from: a message of ICMP.
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;

/// Room for the control messages of one packet.
const CONTROL: usize = 512;

/// A socket that sends echo requests to one address.
#[derive(Debug)]
pub struct EchoSocket {
    /// A datagram socket, if not of UDP: it is waited for in the same way.
    socket: UdpSocket,
    peer: IpAddr,
}

impl Dialer {
    /// A socket that sends echo requests to this address alone.
    ///
    /// Reasons: `permission`, `unreachable`; `config` for a source address that this machine does not have.
    pub fn echo(&self, address: JudgedAddress, settings: EchoSettings) -> Result<EchoSocket, CallError> {
        let peer = address.ip();
        let failed = |error: &io::Error| CallError::new(reason_of(error), format!("no ICMP socket: {error}"));
        let (domain, protocol) =
            if peer.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
        let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => CallError::new(
                Reason::Permission,
                "the system does not let the exporter send ICMP: its group must be in the sysctl net.ipv4.ping_group_range, which the Helm \
                 chart sets if its value probers has Icmp (in podSecurityContext.sysctls)",
            ),
            _ => failed(&error),
        })?;
        set_up(&socket, peer, settings).map_err(|error| failed(&error))?;
        if let Some(from) = self.source_for(address)? {
            let from_address = SockAddr::from(SocketAddr::new(from, 0));
            socket.bind(&from_address).map_err(|error| self.unbound(from, &error))?;
        }
        let to = SockAddr::from(SocketAddr::new(peer, 0));
        socket.connect(&to).map_err(|error| refused_here(peer, &error))?;
        let socket = UdpSocket::from_std(OwnedFd::from(socket).into()).map_err(|error| failed(&error))?;
        Ok(EchoSocket { socket, peer })
    }
}

fn set_up(socket: &Socket, peer: IpAddr, settings: EchoSettings) -> io::Result<()> {
    let EchoSettings { ttl, dont_fragment } = settings;
    socket.set_nonblocking(true)?;
    if peer.is_ipv4() {
        socket.set_ttl_v4(ttl.into())?;
        setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?;
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
        // The default is to forbid fragments as well, and to believe what routers say of the way.
        let discovery = if dont_fragment { Ipv4PathMtuDiscovery::DO } else { Ipv4PathMtuDiscovery::DONT };
        set_ip_mtu_discover(socket, discovery)?;
    } else {
        socket.set_unicast_hops_v6(ttl.into())?;
        setsockopt(socket, sockopt::Ipv6RecvHopLimit, &true)?;
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
        let discovery = if dont_fragment { Ipv6PathMtuDiscovery::DO } else { Ipv6PathMtuDiscovery::DONT };
        set_ipv6_mtu_discover(socket, discovery)?;
    }
    Ok(())
}

/// This machine does not send a request.
fn refused_here(peer: IpAddr, error: &io::Error) -> CallError {
    if Errno::from_raw(error.raw_os_error().unwrap_or_default()) == Errno::EMSGSIZE {
        let message = format!(
            "the packet to {peer} is larger than its way takes without fragments: write a smaller icmp.payloadSize, or dontFragment: false"
        );
        return CallError::new(Reason::Unreachable, message);
    }
    // A route that forbids is an answer of the network, and not a missing permission.
    CallError::new(Reason::Unreachable, format!("no way to {peer}: {error}"))
}

impl EchoSocket {
    /// The address that is asked.
    pub const fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Sends a request. Its identifier and its checksum are the kernel's.
    pub async fn send(&self, packet: &[u8]) -> Result<(), CallError> {
        let mut failed_before = false;
        loop {
            match self.socket.send(packet).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The first error may be that of an earlier request: it is in the queue of errors, and this one was not sent yet.
                Err(_) if !failed_before => failed_before = true,
                Err(error) => return Err(refused_here(self.peer, &error)),
            }
        }
    }

    /// Waits for something that belongs to the requests.
    pub async fn receive(&self, buffer: &mut [u8]) -> Result<EchoArrival, CallError> {
        const ANYTHING: Interest = Interest::READABLE.add(Interest::ERROR);
        let mut failed = None;
        loop {
            let ready = self.socket.ready(ANYTHING).await;
            let ready = ready.map_err(|error| refused_here(self.peer, &error))?;
            // One of them at a time: only that can be marked as not ready any more.
            let interest = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
            match self.socket.try_io(interest, || self.arrival(buffer)) {
                Ok(Some(arrival)) => return Ok(arrival),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => match failed.take() {
                    Some(earlier) => return Err(refused_here(self.peer, &earlier)),
                    None if error.kind() == io::ErrorKind::WouldBlock => {}
                    // It may be in the queue of errors, too, which explains it.
                    None => failed = Some(error),
                },
            }
        }
    }

    /// What has come, if it is of a kind that is known. Refusals first: they explain the error that a plain read gives.
    fn arrival(&self, buffer: &mut [u8]) -> io::Result<Option<EchoArrival>> {
        match self.refusal(buffer) {
            Err(Errno::EAGAIN) => Ok(self.packet(buffer)?),
            refusal => Ok(refusal?),
        }
    }

    /// A packet, if it is from the address that is asked.
    fn packet(&self, buffer: &mut [u8]) -> Result<Option<EchoArrival>, Errno> {
        let mut control = vec![0; CONTROL];
        let mut parts = [IoSliceMut::new(buffer)];
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
        let from = message.address.as_ref().and_then(ip_of);
        if from != Some(self.peer) {
            return Ok(None);
        }
        let hop_limit = message.cmsgs().ok().into_iter().flatten().find_map(|control| match control {
            ControlMessageOwned::Ipv4Ttl(ttl) => u8::try_from(ttl).ok(),
            ControlMessageOwned::Ipv6HopLimit(limit) => u8::try_from(limit).ok(),
            _ => None,
        });
        Ok(Some(EchoArrival::Packet { length: message.bytes, hop_limit }))
    }

    /// An error from the queue of errors; none if it is of no kind that is known.
    fn refusal(&self, buffer: &mut [u8]) -> Result<Option<EchoArrival>, Errno> {
        let mut control = vec![0; CONTROL];
        let mut parts = [IoSliceMut::new(buffer)];
        let fd = self.socket.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_ERRQUEUE;
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags)?;
        let is_ipv4 = self.peer.is_ipv4();
        let refusal = message.cmsgs().ok().into_iter().flatten().find_map(|control| {
            let (error, from) = match control {
                ControlMessageOwned::Ipv4RecvErr(error, from) => {
                    (error, from.map(|from| IpAddr::V4(Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes()))))
                }
                ControlMessageOwned::Ipv6RecvErr(error, from) => {
                    (error, from.map(|from| IpAddr::V6(Ipv6Addr::from(from.sin6_addr.s6_addr))))
                }
                _ => return None,
            };
            let is_from_network = matches!(error.ee_origin, ORIGIN_ICMP | ORIGIN_ICMP6);
            Some(IcmpRefusal {
                from: from.filter(|_| is_from_network),
                is_ipv4,
                kind: error.ee_type,
                code: error.ee_code,
                errno: i32::try_from(error.ee_errno).unwrap_or_default(),
                mtu: error.ee_info,
            })
        });
        Ok(refusal.map(|refusal| EchoArrival::Refusal { length: message.bytes, refusal }))
    }
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

impl IcmpRefusal {
    /// Whether this machine refuses, and not one on the way: then nothing of the request is repeated.
    pub const fn is_of_this_machine(&self) -> bool {
        self.from.is_none()
    }

    /// What the message of ICMP is called.
    fn name(&self) -> &'static str {
        match (self.is_ipv4, self.kind, self.code) {
            (true, 3, 0) => "network unreachable",
            (true, 3, 1) | (false, 1, 3) => "host unreachable",
            (true, 3, 2) => "protocol unreachable",
            (true, 3, 3) | (false, 1, 4) => "port unreachable",
            (true, 3, 4) => "fragmentation needed",
            (true, 3, 9 | 10 | 13) | (false, 1, 1) => "administratively prohibited",
            (false, 1, 0) => "no route to destination",
            (false, 1, 2) => "beyond scope of source address",
            (false, 1, 5) => "source address failed policy",
            (false, 1, 6) => "reject route to destination",
            (true, 3, _) | (false, 1, _) => "destination unreachable",
            (false, 2, _) => "packet too big",
            (true, 11, 0) | (false, 3, 0) => "time to live exceeded",
            (true, 11, _) | (false, 3, _) => "time to reassemble exceeded",
            (true, 12, _) | (false, 4, _) => "parameter problem",
            _ => "an error",
        }
    }

    /// Whether the packet is too large for the way.
    const fn is_too_large(&self) -> bool {
        matches!((self.is_ipv4, self.kind, self.code), (true, 3, 4) | (false, 2, _))
    }
}

impl fmt::Display for IcmpRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(from) = self.from else {
            return match Errno::from_raw(self.errno) {
                Errno::EMSGSIZE => write!(
                    f,
                    "the packet is larger than the {} bytes that its way takes: write a smaller icmp.payloadSize, or dontFragment: false",
                    self.mtu
                ),
                error => write!(f, "this machine does not send it: {}", io::Error::from(error)),
            };
        };
        write!(f, "{from} says {}", self.name())?;
        if self.is_too_large() {
            write!(f, ", the largest packet is of {} bytes: write a smaller icmp.payloadSize", self.mtu)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(is_ipv4: bool, kind: u8, code: u8) -> IcmpRefusal {
        IcmpRefusal { from: Some(Ipv4Addr::LOCALHOST.into()), is_ipv4, kind, code, errno: 113, mtu: 1280 }
    }

    #[test]
    fn messages_have_the_names_of_the_standards() {
        let named = |is_ipv4, kind, code| refusal(is_ipv4, kind, code).to_string();
        assert_eq!(named(true, 3, 1), "127.0.0.1 says host unreachable");
        assert_eq!(named(true, 3, 13), "127.0.0.1 says administratively prohibited");
        assert_eq!(named(true, 3, 7), "127.0.0.1 says destination unreachable");
        assert_eq!(named(true, 11, 0), "127.0.0.1 says time to live exceeded");
        assert_eq!(named(false, 1, 0), "127.0.0.1 says no route to destination");
        assert_eq!(named(false, 3, 0), "127.0.0.1 says time to live exceeded");
        assert_eq!(named(true, 200, 0), "127.0.0.1 says an error");
        assert!(named(true, 3, 4).contains("fragmentation needed, the largest packet is of 1280 bytes"));
        assert!(named(false, 2, 0).contains("packet too big, the largest packet is of 1280 bytes"));
        let here = IcmpRefusal { from: None, errno: 90, ..refusal(true, 0, 0) };
        assert!(here.is_of_this_machine() && here.to_string().contains("larger than the 1280 bytes"));
    }
}
