//! A simulated name server with one zone, over UDP and TCP.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::{Class, Rcode};
use domain::base::{Message, MessageBuilder, Name, RecordData as _, Rtype, Serial, Ttl};
use domain::rdata::{A, Mx, Ns, Soa, Txt, ZoneRecordData};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Mode, Simulated, Switch};

type OwnName = Name<Vec<u8>>;
type Data = ZoneRecordData<Vec<u8>, OwnName>;

/// How long its answers may be kept.
const TTL: Ttl = Ttl::from_secs(300);

/// Between two attempts to receive something, if the first one failed.
const PAUSE: Duration = Duration::from_millis(50);

/// How long it waits for each next step of a client.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it stays silent on a connection where it has no answer: longer than any probe waits, and not for ever.
const SILENCE: Duration = Duration::from_mins(10);

/// A name server. Its [`Mode`] means here: `Status` SERVFAIL, `Hang` no answer, `Html` no DNS at all, `Empty` no records, `Truncated` no
/// records and the flag TC over UDP.
#[derive(Clone, Debug)]
pub struct NameServer {
    zone: Arc<Zone>,
    switch: Switch,
}

#[derive(Debug)]
struct Zone {
    apex: OwnName,
    soa: Data,
    records: Vec<(OwnName, Data)>,
}

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl NameServer {
    /// The server of the zone `apex`: itself, `www` and `mail` have this address, and there are SOA, NS, MX and TXT records.
    pub fn new(apex: &str, address: Ipv4Addr) -> Result<Self, NameServerError> {
        let name = |prefix: &str| -> Result<OwnName, NameServerError> {
            format!("{prefix}{apex}").parse().map_err(|_| NameServerError(apex.to_owned()))
        };
        let (zone, host, mail) = (name("")?, name("ns1.")?, name("mail.")?);
        let seconds = |seconds| Ttl::from_secs(seconds);
        let soa = Soa::new(
            host.clone(),
            name("hostmaster.")?,
            Serial(today()),
            seconds(7200),
            seconds(3600),
            seconds(1_209_600),
            seconds(300),
        );
        let text = Txt::build_from_slice(b"v=spf1 mx -all").map_err(|_| NameServerError(apex.to_owned()))?;
        let a = || Data::A(A::new(address));
        let soa = Data::Soa(soa);
        let records = vec![
            (zone.clone(), soa.clone()),
            (zone.clone(), Data::Ns(Ns::new(host.clone()))),
            (zone.clone(), a()),
            (zone.clone(), Data::Mx(Mx::new(10, mail.clone()))),
            (zone.clone(), Data::Txt(text)),
            (host, a()),
            (mail, a()),
            (name("www.")?, a()),
        ];
        Ok(Self { zone: Arc::new(Zone { apex: zone, soa, records }), switch: Switch::default() })
    }

    /// The switch of its mode.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Serves it on an open listener, and on the UDP port of the same address.
    pub async fn on(&self, listener: TcpListener) -> std::io::Result<Simulated> {
        let address = listener.local_addr()?;
        let socket = Arc::new(UdpSocket::bind(address).await?);
        let stop = CancellationToken::new();
        let server = self.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            let mut packet = vec![0; 4096];
            loop {
                // An error is usually about an answer that could not be delivered, but may last.
                let Ok((length, from)) = socket.recv_from(&mut packet).await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let query = packet.get(..length).unwrap_or_default();
                if let Some(answer) = server.answer(query, Transport::Udp) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        }));
        let (server, stopped) = (self.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let server = server.clone();
                tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
                    let _ = server.serve(stream).await;
                }));
            }
        }));
        Ok(Simulated { address, stop })
    }

    /// One connection: questions and answers, each after its length.
    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let query = timeout(PATIENCE, async {
                let length = stream.read_u16().await?;
                let mut query = vec![0; length.into()];
                stream.read_exact(&mut query).await?;
                std::io::Result::Ok(query)
            });
            let Some(answer) = self.answer(&query.await??, Transport::Tcp) else {
                // Until the client gives up.
                let _ = timeout(SILENCE, tokio::io::copy(&mut stream, &mut tokio::io::sink())).await;
                return Ok(());
            };
            let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
            timeout(PATIENCE, stream.write_all(&[&length.to_be_bytes(), &*answer].concat())).await??;
        }
    }

    /// The answer to one question; `None`: there is none, or it was no question.
    fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let query = Message::from_octets(query).ok().filter(|query| !query.header().qr())?;
        let Ok(question) = query.sole_question() else {
            return Some(MessageBuilder::new_vec().start_answer(&query, Rcode::FORMERR).ok()?.finish());
        };
        let mode = self.switch.get();
        let Zone { apex, soa, records } = &*self.zone;
        let name = question.qname();
        let is_ours = question.qclass() == Class::IN && name.ends_with(apex);
        let of_name = || records.iter().filter(|(owner, _)| owner == name);
        let rcode = match mode {
            Mode::Hang => return None,
            Mode::Html => return Some(b"<!DOCTYPE html><html><body>Welcome to nginx!</body></html>".to_vec()),
            Mode::Status(_) => Rcode::SERVFAIL,
            _ if !is_ours => Rcode::REFUSED,
            _ if of_name().next().is_none() => Rcode::NXDOMAIN,
            _ => Rcode::NOERROR,
        };
        let mut answer = MessageBuilder::new_vec().start_answer(&query, rcode).ok()?;
        let is_cut = mode == Mode::Truncated && transport == Transport::Udp;
        answer.header_mut().set_aa(is_ours && rcode != Rcode::SERVFAIL);
        answer.header_mut().set_tc(is_cut);
        let mut count = 0;
        if rcode == Rcode::NOERROR && !is_cut && mode != Mode::Empty {
            for (owner, data) in of_name().filter(|(_, data)| is_wanted(data, question.qtype())) {
                answer.push((owner, TTL, data)).ok()?;
                count += 1;
            }
        }
        let mut authority = answer.authority();
        if count == 0 && is_ours && rcode != Rcode::SERVFAIL && !is_cut {
            authority.push((apex, TTL, soa)).ok()?;
        }
        Some(authority.finish())
    }
}

fn is_wanted(data: &Data, wanted: Rtype) -> bool {
    wanted == Rtype::ANY || data.rtype() == wanted
}

/// The serial of a zone that was changed today, as administrators write it.
fn today() -> u32 {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let digits = i32::from(today.year()) * 10_000 + i32::from(today.month()) * 100 + i32::from(today.day());
    u32::try_from(digits).unwrap_or_default() * 100 + 1
}

/// A zone that is no name.
#[derive(Debug)]
pub struct NameServerError(String);

impl std::fmt::Display for NameServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is no name of a zone", self.0)
    }
}

impl std::error::Error for NameServerError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: Rtype) -> Vec<u8> {
        let mut query = MessageBuilder::new_vec().question();
        query.push((&name.parse::<OwnName>().unwrap(), kind)).unwrap();
        query.finish()
    }

    fn asked(server: &NameServer, name: &str, kind: Rtype, transport: Transport) -> (Rcode, u16, u16, bool) {
        let query = query(name, kind);
        let answer = Message::from_octets(server.answer(&query, transport).unwrap()).unwrap();
        assert!(answer.is_answer(&Message::from_octets(query).unwrap()));
        let counts = answer.header_counts();
        (answer.header().rcode(), counts.ancount(), counts.nscount(), answer.header().tc())
    }

    #[test]
    fn the_zone_has_its_records_and_nothing_else() {
        let server = NameServer::new("shop.test", Ipv4Addr::LOCALHOST).unwrap();
        for (name, kind, wanted) in [
            ("www.shop.test", Rtype::A, (Rcode::NOERROR, 1, 0, false)),
            ("WWW.shop.TEST", Rtype::ANY, (Rcode::NOERROR, 1, 0, false)),
            ("shop.test", Rtype::SOA, (Rcode::NOERROR, 1, 0, false)),
            ("shop.test", Rtype::ANY, (Rcode::NOERROR, 5, 0, false)),
            ("www.shop.test", Rtype::AAAA, (Rcode::NOERROR, 0, 1, false)),
            ("old.shop.test", Rtype::A, (Rcode::NXDOMAIN, 0, 1, false)),
            ("example.org", Rtype::A, (Rcode::REFUSED, 0, 0, false)),
        ] {
            assert_eq!(asked(&server, name, kind, Transport::Udp), wanted, "{name} {kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_an_answer_is_held_for_long_and_not_for_ever() {
        let server = NameServer::new("shop.test", Ipv4Addr::LOCALHOST).unwrap();
        server.switch().set(Mode::Hang);
        let simulated = server.on(TcpListener::bind("127.0.0.1:0").await.unwrap()).await.unwrap();
        let mut client = TcpStream::connect(simulated.address).await.unwrap();
        let query = query("www.shop.test", Rtype::A);
        client.write_u16(query.len().try_into().unwrap()).await.unwrap();
        client.write_all(&query).await.unwrap();
        let mut received = Vec::new();
        let asked = tokio::time::Instant::now();
        timeout(10 * SILENCE, client.read_to_end(&mut received)).await.unwrap().unwrap();
        assert!(received.is_empty() && asked.elapsed() >= SILENCE, "after {:?}", asked.elapsed());
    }

    #[test]
    fn it_misbehaves_as_it_is_told() {
        let server = NameServer::new("shop.test", Ipv4Addr::LOCALHOST).unwrap();
        let ask = |mode, transport| {
            server.switch().set(mode);
            asked(&server, "www.shop.test", Rtype::A, transport)
        };
        assert_eq!(ask(Mode::Status(500), Transport::Udp), (Rcode::SERVFAIL, 0, 0, false));
        assert_eq!(ask(Mode::Empty, Transport::Udp), (Rcode::NOERROR, 0, 1, false));
        assert_eq!(ask(Mode::Truncated, Transport::Udp), (Rcode::NOERROR, 0, 0, true));
        assert_eq!(ask(Mode::Truncated, Transport::Tcp), (Rcode::NOERROR, 1, 0, false));
        server.switch().set(Mode::Hang);
        assert_eq!(server.answer(&query("www.shop.test", Rtype::A), Transport::Udp), None);
        server.switch().set(Mode::Healthy);
        for garbage in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 600]] {
            assert!(server.answer(garbage, Transport::Udp).is_none_or(|answer| answer.len() <= 12), "{garbage:?}");
        }
    }
}
