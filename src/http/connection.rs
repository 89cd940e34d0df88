//! What a connection is doing, since when, for whom, and which of many is to be closed. A few words a connection; no timer of its own.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::limits::Limits;
use super::peer::Peer;
use super::reply::HoldsTurn;

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

fn milliseconds() -> u64 {
    u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// From one such moment to another.
fn between(then: u64, now: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(then))
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepted; nothing of a request has come.
    Opening,
    /// A request has begun.
    Header,
    /// A request is being answered.
    Waiting,
    /// A request is being answered, and has a place among those that wait for a poll.
    Busy,
    /// An answer is on its way; time counts from its last progress.
    Writing,
    /// The last answer is with the client, the next request has not begun.
    Idle,
}

/// The phase of a connection and since when, in one word that its task writes and others read.
#[derive(Debug, Default)]
pub(super) struct Activity {
    now: AtomicU64,
    /// When its task first looked for a request; 0: not yet.
    opened: AtomicU64,
    /// When the answer that is on its way began.
    answered: AtomicU64,
    /// Since when the client takes nothing of what is to be sent; 0: it does, or nothing is.
    blocked: AtomicU64,
    /// For how long it has taken nothing of this answer before, in milliseconds.
    blocked_before: AtomicU64,
    /// The turn of this answer, which others may want.
    turn: Mutex<Option<HoldsTurn>>,
    /// Whether it has had an answer already.
    served: AtomicBool,
}

impl Activity {
    pub(super) fn new() -> Self {
        let activity = Self::default();
        activity.enter(Phase::Opening);
        activity
    }

    /// From now on the connection does this.
    pub(super) fn enter(&self, phase: Phase) {
        self.now.store(milliseconds() << 3 | phase as u64, Ordering::Relaxed);
    }

    /// Its task looks for a request. On a busy machine this may come long after the connection was accepted, so time counts from here.
    pub(super) fn look(&self) {
        if self.opened.load(Ordering::Relaxed) == 0 {
            self.opened.store(milliseconds().max(1), Ordering::Relaxed);
            self.enter(Phase::Opening);
        }
    }

    /// From now on an answer is on its way.
    pub(super) fn answer(&self, turn: Option<HoldsTurn>) {
        *self.turn() = turn;
        self.served.store(true, Ordering::Relaxed);
        self.answered.store(milliseconds(), Ordering::Relaxed);
        self.blocked_before.store(0, Ordering::Relaxed);
        self.enter(Phase::Writing);
    }

    fn turn(&self) -> MutexGuard<'_, Option<HoldsTurn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more of this answer will come, when all of it that there is has been sent.
    fn is_unfinished(&self) -> bool {
        matches!(&*self.turn(), Some(HoldsTurn::Stream(turn)) if turn.strong_count() > 0)
    }

    fn phase(&self) -> Phase {
        match self.now.load(Ordering::Relaxed) & 7 {
            0 => Phase::Opening,
            1 => Phase::Header,
            2 => Phase::Waiting,
            3 => Phase::Busy,
            4 => Phase::Writing,
            _ => Phase::Idle,
        }
    }

    /// For how long it has been in its phase; while it writes, without any progress.
    fn age(&self, now: u64) -> Duration {
        between(self.now.load(Ordering::Relaxed) >> 3, now)
    }

    /// For how long an answer has been on its way.
    fn writing(&self, now: u64) -> Duration {
        between(self.answered.load(Ordering::Relaxed), now)
    }

    /// For how long the client has taken nothing of an answer. Time in which the answer is being made is not the client's.
    fn blocked(&self, now: u64) -> Duration {
        match self.blocked.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => between(since, now),
        }
    }

    /// The same, with all the times before in which it took nothing of this answer.
    fn blocked_in_all(&self, now: u64) -> Duration {
        Duration::from_millis(self.blocked_before.load(Ordering::Relaxed)) + self.blocked(now)
    }

    /// Whether its client has had time to send a request.
    fn has_had_time(&self, now: u64) -> bool {
        let opened = self.opened.load(Ordering::Relaxed);
        opened > 0 && between(opened, now) >= FRESH
    }

    /// The order in which connections are closed to make room, the highest first. Whoever has had an answer goes before those who wait for
    /// their first, so that asking again and again on one connection gains nothing over a single question; whoever has asked nothing yet
    /// goes before those who have. Within these, the one that has stood still longest.
    fn rank(&self, now: u64) -> (u8, Duration) {
        let class = match self.phase() {
            _ if self.served.load(Ordering::Relaxed) => 2,
            Phase::Opening | Phase::Header => 1,
            _ => 0,
        };
        (class, self.age(now))
    }

    fn overdue(&self, limits: &Limits, now: u64) -> bool {
        let limit = match self.phase() {
            Phase::Opening | Phase::Header => limits.header,
            Phase::Waiting | Phase::Busy => return false, // every handler has an end of its own
            Phase::Writing if self.writing(now) >= limits.answer => return true, // a byte now and then is no progress
            Phase::Writing => limits.stall,
            Phase::Idle => limits.idle,
        };
        self.age(now) >= limit
    }
}

/// So long a new connection is not closed for others, so that its request can come.
const FRESH: Duration = Duration::from_millis(250);

/// Between two looks whether another request has been answered for too long.
const LOOK: Duration = Duration::from_millis(250);

/// An answer of which the client takes nothing holds a turn no longer than this if others want it.
const TURN_STALLED: Duration = Duration::from_secs(1);

/// A socket that is shared with whoever must notice that the client goes away while nobody reads.
#[derive(Debug)]
pub(super) struct Socket(Arc<TcpStream>);

impl Socket {
    pub(super) fn new(stream: Arc<TcpStream>) -> Self {
        Self(stream)
    }

    fn poll_with<T>(
        &self,
        mut ready: impl FnMut(&TcpStream) -> Poll<io::Result<()>>,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(ready(&self.0))?;
            match attempt(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(
            self.poll_with(|stream| stream.poll_read_ready(cx), |stream| stream.try_read(buf.initialize_unfilled()))
        )?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(|stream| stream.poll_write_ready(cx), |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(|stream| stream.poll_write_ready(cx), |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write))
    }
}

/// A socket that notes what passes through it. It lies below TLS, so that every byte of progress is seen.
#[derive(Debug)]
pub(super) struct Watched<S> {
    inner: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S, activity: Arc<Activity>) -> Self {
        Self { inner, activity }
    }

    /// What became of an attempt to write.
    fn written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let blocked = &self.activity.blocked;
        if written.is_ready() {
            let since = blocked.swap(0, Ordering::Relaxed);
            if since > 0 {
                let waited = milliseconds().saturating_sub(since);
                self.activity.blocked_before.fetch_add(waited, Ordering::Relaxed);
            }
        } else if blocked.load(Ordering::Relaxed) == 0 {
            blocked.store(milliseconds().max(1), Ordering::Relaxed);
        }
        if let Poll::Ready(Ok(bytes)) = written {
            self.wrote(bytes);
        }
        written
    }

    fn wrote(&self, bytes: usize) {
        if bytes > 0 && self.activity.phase() == Phase::Writing {
            self.activity.enter(Phase::Writing);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        self.activity.look();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before && matches!(self.activity.phase(), Phase::Opening | Phase::Idle) {
            self.activity.enter(Phase::Header);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        // Once an answer of one piece is flushed, all of it is.
        if self.activity.phase() == Phase::Writing && !self.activity.is_unfinished() {
            self.activity.enter(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The open connections, and how many of them wait for polls, for each peer.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<Open>,
    limits: Limits,
    /// Rings when a connection has ended, or its request is answered.
    pub(super) ended: Notify,
}

#[derive(Debug, Default)]
struct Open {
    by_number: HashMap<u64, Entry>,
    peers: HashMap<Peer, Count>,
    busy: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    activity: Arc<Activity>,
    task: AbortHandle,
    /// Whether it has one of the places for requests that wait for a poll.
    busy: bool,
}

/// How many of a peer's there are.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    open: usize,
    busy: usize,
}

impl Open {
    fn count(&self, peer: Peer) -> Count {
        self.peers.get(&peer).copied().unwrap_or_default()
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        self.release(number);
        let entry = self.by_number.remove(&number)?;
        if let Some(count) = self.peers.get_mut(&entry.peer) {
            count.open -= 1;
            if count.open == 0 {
                self.peers.remove(&entry.peer);
            }
        }
        Some(entry)
    }

    fn close(&mut self, number: u64) {
        if let Some(entry) = self.remove(number) {
            entry.task.abort();
        }
    }

    /// Gives the place of a request back.
    fn release(&mut self, number: u64) {
        let Some(entry) = self.by_number.get_mut(&number).filter(|entry| entry.busy) else { return };
        entry.busy = false;
        self.busy -= 1;
        if let Some(count) = self.peers.get_mut(&entry.peer) {
            count.busy -= 1;
        }
    }

    fn hold(&mut self, number: u64) {
        let Some(entry) = self.by_number.get_mut(&number) else { return };
        entry.busy = true;
        entry.activity.enter(Phase::Busy);
        self.busy += 1;
        self.peers.entry(entry.peer).or_default().busy += 1;
    }

    /// The first to go of those that `may`.
    fn first(&self, now: u64, may: impl Fn(&Entry) -> bool) -> Option<u64> {
        let candidates = self.by_number.iter().filter(|(_, entry)| may(entry));
        candidates.max_by_key(|(_, entry)| entry.activity.rank(now)).map(|(number, _)| *number)
    }

    /// The peer of whom `count` tells most, if one more for a peer that has `own` makes their shares more equal.
    fn largest(&self, own: usize, count: impl Fn(&Count) -> usize) -> Option<Peer> {
        let (peer, most) = self.peers.iter().max_by_key(|(_, of_peer)| count(of_peer))?;
        (count(most) > own + 1).then_some(*peer)
    }

    /// Which connection makes room for another of `newcomer`.
    ///
    /// One that is idle, for that costs its client nothing. Else one of the peer that has most, whatever it does, if this makes their
    /// shares more equal. Else any of a peer that has no less than the newcomer, if it does not wait for a poll, or has for long: so
    /// nobody can drive out others by coming again and again, and nobody's requests keep all places for ever.
    fn victim(&self, newcomer: Option<Peer>, limits: &Limits) -> Option<u64> {
        let now = milliseconds();
        let own = newcomer.map_or(0, |peer| self.count(peer).open);
        let may = |entry: &Entry| entry.activity.has_had_time(now) && !entry.is_in_its_time(limits, now);
        self.first(now, |entry| entry.activity.phase() == Phase::Idle)
            .or_else(|| {
                let largest = self.largest(own, |count| count.open)?;
                let of_largest = |entry: &Entry| entry.peer == largest && entry.activity.has_had_time(now);
                self.first(now, |entry| of_largest(entry) && may(entry)).or_else(|| self.first(now, of_largest))
            })
            .or_else(|| self.first(now, |entry| may(entry) && self.count(entry.peer).open >= own))
    }

    /// Which request that waits for a poll makes room for another of `newcomer`; none if there is room, or each has its time.
    fn busy_victim(&self, newcomer: Peer, limits: &Limits) -> Option<u64> {
        let now = milliseconds();
        let own = self.count(newcomer).busy;
        if own >= limits.requests_per_peer() {
            let is_own = |entry: &Entry| entry.busy && entry.peer == newcomer;
            return self.first(now, |entry| is_own(entry) && !entry.is_in_its_time(limits, now));
        }
        if self.busy < limits.connections.max(1) {
            return None;
        }
        let largest = self.largest(own, |count| count.busy);
        largest.and_then(|peer| self.first(now, |entry| entry.busy && entry.peer == peer)).or_else(|| {
            let may = |entry: &Entry| entry.busy && !entry.is_in_its_time(limits, now);
            self.first(now, |entry| may(entry) && self.count(entry.peer).busy >= own)
        })
    }
}

impl Entry {
    /// Whether it waits for a poll, and not for longer than a client may expect.
    fn is_in_its_time(&self, limits: &Limits, now: u64) -> bool {
        self.activity.phase() == Phase::Busy && self.activity.age(now) < limits.patience
    }
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), limits, ended: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection by its task. `spawn` gets what the task must hold to its end.
    pub(super) fn add(
        self: &Arc<Self>,
        peer: Peer,
        activity: &Arc<Activity>,
        spawn: impl FnOnce(Registration) -> AbortHandle,
    ) {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        // The lock is held until the entry is in: a task that ends at once takes it out afterwards.
        let task = spawn(Registration { connections: Arc::clone(self), number, peer });
        open.by_number.insert(number, Entry { peer, activity: Arc::clone(activity), task, busy: false });
        open.peers.entry(peer).or_default().open += 1;
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().by_number.len()
    }

    /// Makes room for one more connection of `newcomer`, by closing others. False if there is none, which ends within moments.
    pub(super) fn make_room(&self, newcomer: Peer) -> bool {
        let mut open = self.lock();
        while open.by_number.len() >= self.limits.connections.max(1) {
            match open.victim(Some(newcomer), &self.limits) {
                Some(number) => open.close(number),
                // All others wait for polls, or have only just come.
                None => return open.by_number.len() < self.limits.connections.max(1) + self.limits.reserve,
            }
        }
        true
    }

    /// Closes one, because the system has no more to give.
    pub(super) fn close_one(&self) {
        let mut open = self.lock();
        if let Some(number) = open.victim(None, &self.limits) {
            open.close(number);
        }
    }

    /// Closes those that have been too slow or idle for too long.
    pub(super) fn close_overdue(&self) {
        let now = milliseconds();
        self.close_where(|activity| activity.overdue(&self.limits, now));
    }

    /// Closes those whose clients do not read an answer that holds a turn, or not fast enough for those who want it.
    pub(super) fn close_holders_of_turns(&self, longest: Duration, are_wanted: impl Fn(&HoldsTurn) -> bool) {
        let now = milliseconds();
        self.close_where(|activity| {
            activity.phase() == Phase::Writing
                && activity.turn().as_ref().is_some_and(&are_wanted)
                && (activity.blocked(now) >= TURN_STALLED || activity.blocked_in_all(now) >= longest)
        });
    }

    /// Closes those that are not in the middle of a request.
    pub(super) fn close_idle(&self) {
        self.close_where(|activity| matches!(activity.phase(), Phase::Opening | Phase::Idle));
    }

    /// Closes every one.
    pub(super) fn close_all(&self) {
        self.close_where(|_| true);
    }

    fn close_where(&self, close: impl Fn(&Activity) -> bool) {
        let mut open = self.lock();
        let closing: Vec<u64> =
            open.by_number.iter().filter(|(_, entry)| close(&entry.activity)).map(|(number, _)| *number).collect();
        for number in closing {
            open.close(number);
        }
    }
}

/// A connection's entry in the table. The task that serves it holds this, and takes the entry out when it ends or is aborted.
#[derive(Debug)]
pub(super) struct Registration {
    connections: Arc<Connections>,
    number: u64,
    pub(super) peer: Peer,
}

impl Registration {
    /// Waits for a place among the requests that wait for a poll; none if that takes too long.
    pub(super) async fn place(&self) -> Option<Place<'_>> {
        let waited = async {
            let mut makes_room = true;
            let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
            loop {
                let mut ended = std::pin::pin!(self.connections.ended.notified());
                ended.as_mut().enable();
                if self.has_place(makes_room) {
                    return Place(self);
                }
                // Whether somebody must make room is looked at now and then, since it takes a look at every connection.
                makes_room = tokio::select! {
                    () = ended => false,
                    _ = look.tick() => true,
                };
            }
        };
        tokio::time::timeout(self.connections.limits.patience, waited).await.ok()
    }

    fn has_place(&self, makes_room: bool) -> bool {
        let limits = &self.connections.limits;
        let mut open = self.connections.lock();
        if makes_room && let Some(number) = open.busy_victim(self.peer, limits) {
            open.close(number);
        }
        let free = open.busy < limits.connections.max(1) && open.count(self.peer).busy < limits.requests_per_peer();
        if free {
            open.hold(self.number);
        }
        free
    }
}

/// A place among the requests that wait for a poll.
#[derive(Debug)]
pub(super) struct Place<'r>(&'r Registration);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.connections.lock().release(self.0.number);
        self.0.connections.ended.notify_waiters();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.lock().remove(self.number);
        self.connections.ended.notify_waiters();
    }
}
