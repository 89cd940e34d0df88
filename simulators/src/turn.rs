//! A simulated STUN and TURN server over UDP, TCP and TLS. It really relays: each allocation has a UDP socket of its own. But it relays between
//! its own allocations only, so that nobody reaches anything through it.
//!
//! It reads and writes messages with code of its own, and shares none with the exporter: a mistake in the exporter's codec must not hide
//! behind the same mistake here.

mod message;

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Mode, Simulated, Switch};
use message::{Answer, Class, Request};

/// What a server grants at least, whatever is asked for, and at most: as coturn does.
const LIFETIMES: (u32, u32) = (600, 3600);

/// Between two attempts to receive something, if the first one failed.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a handshake, or writing, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Messages to one client that wait to be written to its connection; further ones are lost, as on a network.
const WAITING: usize = 256;

/// The most allocations: there is a socket behind each of them.
const MAX_ALLOCATIONS: usize = 4096;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnStep {
    /// Binding.
    Binding,
    /// An Allocate request without credentials.
    Challenge,
    /// One with credentials.
    Allocate,
    /// `CreatePermission` and `ChannelBind`.
    Permission,
    /// Refresh.
    Refresh,
}

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnFault {
    /// Each nth message of clients is lost; over UDP only.
    LoseEach(u32),
    /// It does not answer these requests, though it does what they ask for.
    Silent(TurnStep),
    /// It does nothing about these requests until this time has passed.
    Slow(TurnStep, Duration),
    /// It answers these requests with this error.
    Error(TurnStep, u16),
    /// The answer has the number of another transaction.
    OtherTransaction(TurnStep),
    /// The answer has no MESSAGE-INTEGRITY.
    Unsigned(TurnStep),
    /// The answer has a wrong one.
    BadlySigned(TurnStep),
    /// The next nonce that comes is too old. This happens once.
    StaleNonce,
    /// Half of the answer.
    Truncated(TurnStep),
    /// The answer is an HTML page.
    Garbage(TurnStep),
    /// The answer is as long as it can be.
    Huge(TurnStep),
    /// A successful answer has no attributes.
    Empty(TurnStep),
    /// The answer to Allocate does not say at which address it relays.
    NoRelayedAddress,
    /// Credentials are required, but neither realm nor nonce is given.
    NoRealm,
    /// What is relayed to clients suffers.
    Relay(RelayFault),
}

/// What becomes of packets that are relayed to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayFault {
    /// Each nth is lost; with 1, all are.
    DropEach(u32),
    /// Each comes twice.
    Duplicate,
    /// Two at a time change places.
    Reorder,
    /// A byte of each is changed.
    Corrupt,
    /// They come on another channel.
    WrongChannel,
}

/// How an allocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocationEnd {
    /// The client gave it back, with a Refresh of lifetime 0.
    Released,
    /// The connection of the client ended.
    Disconnected,
    /// It was not refreshed in time.
    Expired,
}

/// A STUN and TURN server. Its [`Mode`] means here: `Status` error 500, `Hang` no answer, `Html` no STUN at all, `Empty` a success without
/// attributes, `Truncated` half of an answer.
#[derive(Clone, Debug)]
pub struct TurnServer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    realm: String,
    user: Option<(String, String)>,
    secret: Option<String>,
    /// How it rejects wrong credentials.
    rejection: u16,
    switch: Switch,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    faults: Vec<TurnFault>,
    allocations: HashMap<Client, Allocation>,
    ended: Vec<AllocationEnd>,
    /// Requests that a fault has put off.
    put_off: HashSet<(Client, [u8; 12])>,
    /// How often the nonce has changed.
    nonce: u64,
    /// Messages that came, and packets that were relayed to clients.
    received: u64,
    relayed: u64,
}

/// One end of a connection, or of UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client {
    server: SocketAddr,
    address: SocketAddr,
    is_stream: bool,
}

#[derive(Debug)]
struct Allocation {
    socket: Arc<UdpSocket>,
    relayed: SocketAddr,
    /// Of the request for it, which may come again.
    transaction: [u8; 12],
    expires: Instant,
    permissions: HashSet<IpAddr>,
    channels: HashMap<u16, SocketAddr>,
    stop: CancellationToken,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The way back to a client.
#[derive(Clone, Debug)]
enum Way {
    Udp(Arc<UdpSocket>, SocketAddr),
    Stream(mpsc::Sender<Vec<u8>>),
}

impl Way {
    async fn send(&self, bytes: Vec<u8>) {
        match self {
            Self::Udp(socket, to) => drop(socket.send_to(&bytes, to).await),
            Self::Stream(queue) => drop(queue.try_send(bytes)),
        }
    }
}

impl TurnServer {
    /// A server that anybody may use.
    pub fn open() -> Self {
        Self(Arc::new(Shared {
            realm: "turn.test".to_owned(),
            user: None,
            secret: None,
            rejection: 401,
            switch: Switch::default(),
            state: Mutex::default(),
        }))
    }

    /// A server with one user.
    pub fn with_user(name: &str, password: &str) -> Self {
        Self::open().changed(|shared| shared.user = Some((name.to_owned(), password.to_owned())))
    }

    /// A server whose users have passwords that are made from this secret, until the time in their names.
    pub fn with_shared_secret(secret: &str) -> Self {
        Self::open().changed(|shared| shared.secret = Some(secret.to_owned()))
    }

    /// The same server, which rejects wrong credentials with this code: pion does with 400.
    #[must_use]
    pub fn rejecting_with(self, code: u16) -> Self {
        self.changed(|shared| shared.rejection = code)
    }

    fn changed(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.0) {
            change(shared);
        }
        self
    }

    /// The switch of its mode.
    pub fn switch(&self) -> &Switch {
        &self.0.switch
    }

    /// What it does wrong from now on, instead of what it did wrong before.
    pub fn misbehave(&self, faults: impl IntoIterator<Item = TurnFault>) {
        self.state().faults = faults.into_iter().collect();
    }

    /// The relayed addresses of the allocations that exist.
    pub fn allocations(&self) -> Vec<SocketAddr> {
        self.state().allocations.values().map(|allocation| allocation.relayed).collect()
    }

    /// How the allocations ended that do not exist any more, in order.
    pub fn ended(&self) -> Vec<AllocationEnd> {
        self.state().ended.clone()
    }

    /// How many messages of clients have come.
    pub fn received(&self) -> u64 {
        self.state().received
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves on this address over UDP and TCP; port 0 selects one that is free for both.
    pub async fn serve(&self, address: SocketAddr) -> std::io::Result<Simulated> {
        const ATTEMPTS: usize = 20;
        let mut attempts = 1..;
        loop {
            match self.on(TcpListener::bind(address).await?).await {
                Err(error)
                    if address.port() == 0
                        && error.kind() == ErrorKind::AddrInUse
                        && attempts.next() < Some(ATTEMPTS) => {}
                served => return served,
            }
        }
    }

    /// Serves on an open listener, and on the UDP port of the same address.
    pub async fn on(&self, listener: TcpListener) -> std::io::Result<Simulated> {
        let socket = Arc::new(UdpSocket::bind(listener.local_addr()?).await?);
        let simulated = self.on_streams(listener, None)?;
        let (server, local) = (self.clone(), simulated.address);
        tokio::spawn(simulated.stop.clone().run_until_cancelled_owned(async move {
            let mut datagram = vec![0; 1 << 16];
            loop {
                // An error is usually about an answer that could not be delivered, but may last.
                let Ok((length, address)) = socket.recv_from(&mut datagram).await else {
                    sleep(PAUSE).await;
                    continue;
                };
                if server.loses() {
                    continue;
                }
                let client = Client { server: local, address, is_stream: false };
                let way = Way::Udp(Arc::clone(&socket), address);
                server.receive(client, &way, &datagram[..length]).await;
            }
        }));
        Ok(simulated)
    }

    /// Serves over TLS on an open listener.
    pub fn on_tls(&self, listener: TcpListener, acceptor: TlsAcceptor) -> std::io::Result<Simulated> {
        self.on_streams(listener, Some(acceptor))
    }

    fn on_streams(&self, listener: TcpListener, acceptor: Option<TlsAcceptor>) -> std::io::Result<Simulated> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (server, stopped) = (self.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((stream, from)) = listener.accept().await else {
                    sleep(PAUSE).await; // too many open files, for instance
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let client = Client { server: address, address: from, is_stream: true };
                let (server, acceptor) = (server.clone(), acceptor.clone());
                tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
                    match acceptor {
                        None => server.serve_stream(client, stream).await,
                        Some(acceptor) => {
                            if let Ok(Ok(stream)) = timeout(PATIENCE, acceptor.accept(stream)).await {
                                server.serve_stream(client, stream).await;
                            }
                        }
                    }
                }));
            }
        }));
        Ok(Simulated { address, stop })
    }

    /// One connection, until either end closes it.
    async fn serve_stream(&self, client: Client, stream: impl AsyncRead + AsyncWrite + Send + 'static) {
        let (mut reading, mut writing) = tokio::io::split(stream);
        let (queue, mut queued) = mpsc::channel::<Vec<u8>>(WAITING);
        let writer = async move {
            while let Some(bytes) = queued.recv().await {
                let is_cut = bytes.is_empty();
                let written = timeout(PATIENCE, writing.write_all(&bytes)).await;
                if is_cut || !matches!(written, Ok(Ok(()))) || writing.flush().await.is_err() {
                    let _ = writing.shutdown().await;
                    return;
                }
            }
        };
        let way = Way::Stream(queue);
        let reader = async {
            while let Some(message) = read_message(&mut reading).await {
                self.receive(client, &way, &message).await;
            }
        };
        tokio::select! {
            () = writer => {}
            () = reader => {}
        }
        self.end(client, AllocationEnd::Disconnected);
    }

    /// Whether the message that has come is lost.
    fn loses(&self) -> bool {
        let mut state = self.state();
        state.received += 1;
        let received = state.received;
        state
            .faults
            .iter()
            .any(|fault| matches!(fault, TurnFault::LoseEach(each) if received.is_multiple_of(u64::from(*each))))
    }

    async fn receive(&self, client: Client, way: &Way, bytes: &[u8]) {
        if self.0.switch.get() == Mode::Hang {
            return;
        }
        if let Some((channel, data)) = message::read_channel_data(bytes) {
            return self.relay_out(client, channel, data).await;
        }
        let Some(request) = Request::read(bytes) else { return };
        if request.class == Class::Indication && request.method == message::SEND {
            return self.relay_indication(client, &request).await;
        }
        let Some(step) = step_of(&request) else { return };
        let slow = self.state().faults.iter().find_map(|fault| match fault {
            TurnFault::Slow(at, by) if *at == step => Some(*by),
            _ => None,
        });
        match slow {
            None => self.answer(client, way, &request, step).await,
            // A request that comes again while it is put off is not done twice.
            Some(_) if !self.state().put_off.insert((client, request.transaction)) => {}
            Some(by) => {
                let (server, way, bytes) = (self.clone(), way.clone(), bytes.to_vec());
                tokio::spawn(async move {
                    sleep(by).await;
                    if let Some(request) = Request::read(&bytes) {
                        server.answer(client, &way, &request, step).await;
                    }
                });
            }
        }
    }

    async fn answer(&self, client: Client, way: &Way, request: &Request<'_>, step: TurnStep) {
        let is = |fault: TurnFault| self.state().faults.contains(&fault);
        let reply = self.reply(client, way, request, step).await;
        let Some(reply) = reply.filter(|_| !is(TurnFault::Silent(step))) else { return };
        let mode = self.0.switch.get();
        let transaction = match request.transaction {
            other if is(TurnFault::OtherTransaction(step)) => other.map(|byte| !byte),
            own => own,
        };
        let mut answer = Answer::new(reply.class, request.method, transaction);
        if mode != Mode::Empty && !is(TurnFault::Empty(step)) {
            reply.attributes.iter().for_each(|attribute| attribute.put(&mut answer));
            answer.put(message::SOFTWARE, b"Simulated TURN server");
        }
        if is(TurnFault::Huge(step)) {
            answer.put(message::SOFTWARE, &vec![b'x'; 65_000]);
        }
        if let Some(key) = reply.key.filter(|_| !is(TurnFault::Unsigned(step))) {
            answer.put_integrity(if is(TurnFault::BadlySigned(step)) { b"another key" } else { &key });
        }
        if request.has_fingerprint {
            answer.put_fingerprint();
        }
        let mut bytes = answer.into_bytes();
        let is_cut = mode == Mode::Truncated || is(TurnFault::Truncated(step));
        if is_cut {
            bytes.truncate(bytes.len() / 2);
        }
        if mode == Mode::Html || is(TurnFault::Garbage(step)) {
            bytes = b"<!DOCTYPE html><html><body>Welcome to nginx!</body></html>".to_vec();
        }
        way.send(bytes).await;
        if is_cut && client.is_stream {
            way.send(Vec::new()).await; // the end
        }
    }

    /// What is answered, and done. `None`: nothing.
    async fn reply(&self, client: Client, way: &Way, request: &Request<'_>, step: TurnStep) -> Option<Reply> {
        if let Mode::Status(code) = self.0.switch.get() {
            return Some(self.error(code));
        }
        let error = self.state().faults.iter().find_map(|fault| match fault {
            TurnFault::Error(at, code) if *at == step => Some(*code),
            _ => None,
        });
        if let Some(code) = error {
            return Some(self.error(code));
        }
        if step == TurnStep::Binding {
            return Some(Reply::success(vec![Attribute::Address(message::MAPPED_ADDRESS, client.address)], None));
        }
        let key = match self.judge(request) {
            Ok(key) => key,
            Err(code) => return Some(self.error(code)),
        };
        match request.method {
            message::ALLOCATE => Some(self.allocate(client, way, request, key).await),
            message::REFRESH => Some(self.refresh(client, request, key)),
            message::CREATE_PERMISSION | message::CHANNEL_BIND => Some(self.permit(client, request, key)),
            _ => None,
        }
    }

    /// The key of whoever sent the request; `None` if anybody may.
    fn judge(&self, request: &Request<'_>) -> Result<Option<Vec<u8>>, u16> {
        let Shared { realm, user, secret, rejection, .. } = &*self.0;
        if user.is_none() && secret.is_none() {
            return Ok(None);
        }
        if !request.has_integrity() {
            return Err(401);
        }
        let (Some(name), Some(nonce)) = (request.text(message::USERNAME), request.text(message::NONCE)) else {
            return Err(400);
        };
        let mut state = self.state();
        if let Some(at) = state.faults.iter().position(|fault| *fault == TurnFault::StaleNonce) {
            state.faults.remove(at);
            state.nonce += 1;
        }
        if nonce != nonce_of(state.nonce) {
            return Err(438);
        }
        drop(state);
        let password = match (user, secret) {
            (Some((known, password)), _) if known == name => password.clone(),
            (_, Some(secret)) if is_in_time(name) => base64_of(&message::shared_password(secret, name)),
            _ => return Err(*rejection),
        };
        let key = message::key(name, realm, &password);
        let is_own_realm = request.text(message::REALM) == Some(realm);
        if is_own_realm && request.is_signed_with(&key) { Ok(Some(key)) } else { Err(*rejection) }
    }

    fn error(&self, code: u16) -> Reply {
        let mut attributes = vec![Attribute::Error(code)];
        let state = self.state();
        match code {
            401 | 438 if !state.faults.contains(&TurnFault::NoRealm) => {
                attributes.push(Attribute::Text(message::REALM, self.0.realm.clone()));
                attributes.push(Attribute::Text(message::NONCE, nonce_of(state.nonce)));
            }
            300 => {
                let other = SocketAddr::from(([192, 0, 2, 9], 3478));
                attributes.push(Attribute::Plain(message::ALTERNATE_SERVER, other));
            }
            420 => attributes.push(Attribute::Bytes(message::UNKNOWN_ATTRIBUTES, vec![0, 0x19])),
            _ => {}
        }
        Reply { class: Class::Error, attributes, key: None }
    }

    async fn allocate(&self, client: Client, way: &Way, request: &Request<'_>, key: Option<Vec<u8>>) -> Reply {
        if request.value(message::REQUESTED_TRANSPORT) != Some(&[17, 0, 0, 0]) {
            return self.error(442);
        }
        let granted = request.number(message::LIFETIME).unwrap_or_default().clamp(LIFETIMES.0, LIFETIMES.1);
        let has_room = {
            let state = self.state();
            match state.allocations.get(&client) {
                Some(same) if same.transaction == request.transaction => {
                    let relayed = same.relayed;
                    return granted_reply(&state, client, relayed, granted, key);
                }
                Some(_) => {
                    drop(state);
                    return self.error(437);
                }
                None => state.allocations.len() < MAX_ALLOCATIONS,
            }
        };
        // Relayed packets come from where the server is; one that is bound to all addresses relays at loopback.
        let at = match client.server.ip() {
            ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            ip => ip,
        };
        let socket = UdpSocket::bind((at, 0)).await.ok().filter(|_| has_room);
        let bound = socket.and_then(|socket| Some((socket.local_addr().ok()?, Arc::new(socket))));
        let Some((relayed, socket)) = bound else { return self.error(508) };
        let expires = Instant::now() + Duration::from_secs(granted.into());
        let stop = CancellationToken::new();
        let relaying =
            stop.clone().run_until_cancelled_owned(self.clone().relay(client, way.clone(), Arc::clone(&socket)));
        let allocation = Allocation {
            socket,
            relayed,
            transaction: request.transaction,
            expires,
            permissions: HashSet::new(),
            channels: HashMap::new(),
            stop,
        };
        let mut state = self.state();
        state.allocations.insert(client, allocation);
        tokio::spawn(relaying); // which ends where there is no allocation
        granted_reply(&state, client, relayed, granted, key)
    }

    fn refresh(&self, client: Client, request: &Request<'_>, key: Option<Vec<u8>>) -> Reply {
        let asked = request.number(message::LIFETIME).unwrap_or(LIFETIMES.0);
        let granted = if asked == 0 { 0 } else { asked.clamp(LIFETIMES.0, LIFETIMES.1) };
        if granted == 0 {
            if !self.end(client, AllocationEnd::Released) {
                return self.error(437);
            }
        } else if let Some(allocation) = self.state().allocations.get_mut(&client) {
            allocation.expires = Instant::now() + Duration::from_secs(granted.into());
        } else {
            return self.error(437);
        }
        Reply::success(vec![Attribute::Number(message::LIFETIME, granted)], key)
    }

    fn permit(&self, client: Client, request: &Request<'_>, key: Option<Vec<u8>>) -> Reply {
        let Some(peer) = request.address(message::PEER_ADDRESS) else { return self.error(400) };
        let mut state = self.state();
        // Whoever finds it running must not reach others through it.
        if !state.allocations.values().any(|allocation| allocation.relayed == peer) {
            drop(state);
            return self.error(403);
        }
        let Some(allocation) = state.allocations.get_mut(&client) else {
            drop(state);
            return self.error(437);
        };
        if request.method == message::CHANNEL_BIND {
            let channel = request.value(message::CHANNEL_NUMBER).and_then(|value| value.get(..2));
            let channel = channel.map(|value| u16::from_be_bytes([value[0], value[1]]));
            let Some(channel) = channel.filter(|channel| (0x4000..0x5000).contains(channel)) else {
                drop(state);
                return self.error(400);
            };
            allocation.channels.insert(channel, peer);
        }
        allocation.permissions.insert(peer.ip());
        Reply::success(Vec::new(), key)
    }

    /// Ends the allocation of a client; `false`: it has none.
    fn end(&self, client: Client, how: AllocationEnd) -> bool {
        let mut state = self.state();
        let ended = state.allocations.remove(&client).is_some();
        if ended {
            state.ended.push(how);
        }
        ended
    }

    async fn relay_out(&self, client: Client, channel: u16, data: &[u8]) {
        let way = self
            .state()
            .allocations
            .get(&client)
            .and_then(|allocation| Some((Arc::clone(&allocation.socket), *allocation.channels.get(&channel)?)));
        if let Some((socket, peer)) = way {
            let _ = socket.send_to(data, peer).await;
        }
    }

    async fn relay_indication(&self, client: Client, request: &Request<'_>) {
        let (peer, data) = (request.address(message::PEER_ADDRESS), request.value(message::DATA_VALUE));
        let (Some(peer), Some(data)) = (peer, data) else { return };
        let socket =
            self.state().allocations.get(&client).and_then(|allocation| {
                allocation.permissions.contains(&peer.ip()).then(|| Arc::clone(&allocation.socket))
            });
        if let Some(socket) = socket {
            let _ = socket.send_to(data, peer).await;
        }
    }

    /// Relays to the client until the allocation expires.
    async fn relay(self, client: Client, way: Way, socket: Arc<UdpSocket>) {
        let mut packet = vec![0; 1 << 16];
        let mut held: Option<Vec<u8>> = None;
        loop {
            let expires = self.state().allocations.get(&client).map(|allocation| allocation.expires);
            let Some(expires) = expires else { return };
            if expires <= Instant::now() {
                self.end(client, AllocationEnd::Expired);
                return;
            }
            let received = tokio::select! {
                received = socket.recv_from(&mut packet) => received,
                () = sleep_until(expires) => continue, // which may have been put off
            };
            let Ok((length, peer)) = received else {
                sleep(PAUSE).await;
                continue;
            };
            for bytes in self.relayed(client, peer, &packet[..length], &mut held) {
                way.send(bytes).await;
            }
        }
    }

    /// What a client gets of a packet of this peer.
    fn relayed(&self, client: Client, peer: SocketAddr, data: &[u8], held: &mut Option<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut state = self.state();
        let Some(allocation) = state.allocations.get(&client) else { return Vec::new() };
        if !allocation.permissions.contains(&peer.ip()) {
            return Vec::new();
        }
        let channel = allocation.channels.iter().find(|(_, other)| **other == peer).map(|(channel, _)| *channel);
        state.relayed += 1;
        let number = state.relayed;
        let is = |fault| state.faults.contains(&TurnFault::Relay(fault));
        let lost = |fault: &TurnFault| matches!(fault, TurnFault::Relay(RelayFault::DropEach(each)) if number.is_multiple_of(u64::from(*each)));
        if state.faults.iter().any(lost) {
            return Vec::new();
        }
        let mut data = data.to_vec();
        if let Some(last) = data.last_mut().filter(|_| is(RelayFault::Corrupt)) {
            *last ^= 0xff;
        }
        let bytes = if let Some(channel) = channel {
            let channel = if is(RelayFault::WrongChannel) { channel + 1 } else { channel };
            message::channel_data(channel, &data, client.is_stream)
        } else {
            let mut indication = Answer::new(Class::Indication, message::DATA, number_of_transaction(number));
            indication.put_address(message::PEER_ADDRESS, peer);
            indication.put(message::DATA_VALUE, &data);
            indication.into_bytes()
        };
        if is(RelayFault::Duplicate) {
            return vec![bytes.clone(), bytes];
        }
        if is(RelayFault::Reorder) {
            return match held.take() {
                None => {
                    *held = Some(bytes);
                    Vec::new()
                }
                Some(earlier) => vec![bytes, earlier],
            };
        }
        vec![bytes]
    }
}

fn granted_reply(state: &State, client: Client, relayed: SocketAddr, seconds: u32, key: Option<Vec<u8>>) -> Reply {
    let mut attributes = vec![
        Attribute::Address(message::RELAYED_ADDRESS, relayed),
        Attribute::Address(message::MAPPED_ADDRESS, client.address),
        Attribute::Number(message::LIFETIME, seconds),
    ];
    if state.faults.contains(&TurnFault::NoRelayedAddress) {
        attributes.remove(0);
    }
    Reply::success(attributes, key)
}

/// The next message on a stream; `None`: the end, or something else.
async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.ok()?;
    let mut message = head.to_vec();
    message.resize(message::length_on_stream(head)?, 0);
    stream.read_exact(&mut message[4..]).await.ok()?;
    Some(message)
}

fn step_of(request: &Request<'_>) -> Option<TurnStep> {
    if request.class != Class::Request {
        return None;
    }
    match request.method {
        message::BINDING => Some(TurnStep::Binding),
        message::ALLOCATE if request.has_integrity() => Some(TurnStep::Allocate),
        message::ALLOCATE => Some(TurnStep::Challenge),
        message::CREATE_PERMISSION | message::CHANNEL_BIND => Some(TurnStep::Permission),
        message::REFRESH => Some(TurnStep::Refresh),
        _ => None,
    }
}

/// What is answered.
struct Reply {
    class: Class,
    attributes: Vec<Attribute>,
    key: Option<Vec<u8>>,
}

impl Reply {
    const fn success(attributes: Vec<Attribute>, key: Option<Vec<u8>>) -> Self {
        Self { class: Class::Success, attributes, key }
    }
}

enum Attribute {
    Address(u16, SocketAddr),
    /// An address that is not hidden.
    Plain(u16, SocketAddr),
    Number(u16, u32),
    Text(u16, String),
    Bytes(u16, Vec<u8>),
    Error(u16),
}

impl Attribute {
    fn put(&self, answer: &mut Answer) {
        match self {
            Self::Address(name, address) => answer.put_address(*name, *address),
            Self::Plain(name, address) => {
                let (family, octets) = match address.ip() {
                    IpAddr::V4(v4) => (1, v4.octets().to_vec()),
                    IpAddr::V6(v6) => (2, v6.octets().to_vec()),
                };
                answer.put(*name, &[&[0, family], &address.port().to_be_bytes()[..], &octets].concat());
            }
            Self::Number(name, number) => answer.put(*name, &number.to_be_bytes()),
            Self::Text(name, text) => answer.put(*name, text.as_bytes()),
            Self::Bytes(name, bytes) => answer.put(*name, bytes),
            Self::Error(code) => answer.put_error(*code, phrase(*code)),
        }
    }
}

const fn phrase(code: u16) -> &'static str {
    match code {
        300 => "Try Alternate",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        420 => "Unknown Attribute",
        437 => "Allocation Mismatch",
        438 => "Stale Nonce",
        440 => "Address Family not Supported",
        441 => "Wrong Credentials",
        442 => "Unsupported Transport Protocol",
        486 => "Allocation Quota Reached",
        508 => "Insufficient Capacity",
        _ => "Server Error",
    }
}

fn nonce_of(number: u64) -> String {
    format!("{:016x}{number:04x}", 0x7475_726e_7475_726e_u64)
}

fn number_of_transaction(number: u64) -> [u8; 12] {
    let mut transaction = [0; 12];
    transaction[4..].copy_from_slice(&number.to_be_bytes());
    transaction
}

/// Whether the time in the name of a user has not passed: `1800000000:user`.
fn is_in_time(name: &str) -> bool {
    let until = name.split(':').next().and_then(|until| until.parse::<i64>().ok());
    until.is_some_and(|until| until > jiff::Timestamp::now().as_second())
}

fn base64_of(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let is_there = digit <= chunk.len();
            text.push(if is_there { char::from(DIGITS[bits >> (18 - 6 * digit) & 63]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_of_a_shared_secret_is_what_others_compute() {
        let password = base64_of(&message::shared_password("shared", "1800000000:probe"));
        assert_eq!(password, "8LBmdrLmxWJrPjMYrpyIoJWLzU0=");
        assert_eq!(
            (base64_of(b"a"), base64_of(b"ab"), base64_of(b"abc")),
            ("YQ==".into(), "YWI=".into(), "YWJj".into())
        );
        assert!(is_in_time("99999999999:a") && !is_in_time("1000:a") && !is_in_time("a"));
    }

    async fn asked(socket: &UdpSocket, request: Vec<u8>) -> Vec<u8> {
        socket.send(&request).await.unwrap();
        let mut answer = vec![0; 2048];
        let length = timeout(PATIENCE, socket.recv(&mut answer)).await.unwrap().unwrap();
        answer.truncate(length);
        answer
    }

    #[tokio::test]
    async fn a_client_is_challenged_allocates_and_hears_itself_through_the_relay() {
        let server = TurnServer::with_user("alice", "secret");
        let simulated = server.serve((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(simulated.address).await.unwrap();
        let key = message::key("alice", "turn.test", "secret");
        let request = |method, attributes: &[Attribute], is_signed: bool| {
            let mut request = Answer::new(Class::Request, method, [7; 12]);
            for attribute in attributes {
                attribute.put(&mut request);
            }
            if is_signed {
                request.put(message::USERNAME, b"alice");
                request.put(message::REALM, b"turn.test");
                request.put(message::NONCE, nonce_of(0).as_bytes());
                request.put_integrity(&key);
            }
            request.into_bytes()
        };
        let transport = || Attribute::Bytes(message::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]);
        let refused = asked(&socket, request(message::ALLOCATE, &[transport()], false)).await;
        let refused = Request::read(&refused).unwrap();
        assert_eq!((refused.class, refused.text(message::NONCE)), (Class::Error, Some(&*nonce_of(0))));
        assert!(server.allocations().is_empty());

        let granted = asked(&socket, request(message::ALLOCATE, &[transport()], true)).await;
        let granted = Request::read(&granted).unwrap();
        assert!(granted.class == Class::Success && granted.is_signed_with(&key));
        let relayed = granted.address(message::RELAYED_ADDRESS).unwrap();
        assert_eq!(server.allocations(), [relayed]);
        assert_eq!(granted.number(message::LIFETIME), Some(600));

        let bind = [
            Attribute::Bytes(message::CHANNEL_NUMBER, vec![0x40, 0, 0, 0]),
            Attribute::Address(message::PEER_ADDRESS, relayed),
        ];
        let bound = asked(&socket, request(message::CHANNEL_BIND, &bind, true)).await;
        assert_eq!(Request::read(&bound).unwrap().class, Class::Success);
        let echo = asked(&socket, message::channel_data(0x4000, b"hello", false)).await;
        assert_eq!(message::read_channel_data(&echo), Some((0x4000, &b"hello"[..])));

        let released =
            asked(&socket, request(message::REFRESH, &[Attribute::Number(message::LIFETIME, 0)], true)).await;
        assert_eq!(Request::read(&released).unwrap().class, Class::Success);
        assert!(server.allocations().is_empty());
        assert_eq!(server.ended(), [AllocationEnd::Released]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_allocation_that_nobody_refreshes_ends() {
        let server = TurnServer::open();
        let client = Client {
            server: (Ipv4Addr::LOCALHOST, 1).into(),
            address: (Ipv4Addr::LOCALHOST, 2).into(),
            is_stream: true,
        };
        let mut request = Answer::new(Class::Request, message::ALLOCATE, [7; 12]);
        request.put(message::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let request = request.into_bytes();
        let (queue, mut answers) = mpsc::channel(8);
        server.receive(client, &Way::Stream(queue), &request).await;
        assert_eq!(Request::read(&answers.recv().await.unwrap()).unwrap().class, Class::Success);
        assert_eq!(server.allocations().len(), 1);
        sleep(Duration::from_secs(601)).await;
        assert_eq!((server.allocations().len(), server.ended()), (0, vec![AllocationEnd::Expired]));
    }
}
