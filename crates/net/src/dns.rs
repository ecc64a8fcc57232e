//! What DNS says beyond the addresses of a host: on which hosts and ports a service of a domain runs (SRV records), and how
//! an address is called (PTR records).
//!
//! A [`Resolver`] asks the machine's name servers as Go's does, in their order: over UDP, over TCP when the answer does
//! not fit a datagram, and the next server when one is silent or broken. That a name does not exist is an answer, too:
//! no further server is asked.

use std::cmp::Reverse;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// `address:port` of a name server to be asked instead of this machine's: for servers that only know a cluster's members.
const SERVER_VARIABLE: &str = "RETCD_DNS_SERVER";
const PORT: u16 = 53;
/// In bytes; what passes nearly every network in one piece.
const LONGEST_DATAGRAM: u16 = 1232;

/// One place where a service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Lower ones are to be tried first.
    pub priority: u16,
    /// Within a priority, greater ones are to be tried first.
    pub weight: u16,
    /// Without a dot at its end.
    pub host: String,
    pub port: u16,
}

/// Why a name leads nowhere, in Go's words.
#[derive(Debug, thiserror::Error)]
#[error("lookup {name}{}: {why}", server.map(|server| format!(" on {server}")).unwrap_or_default())]
pub struct Error {
    name: String,
    /// Who was asked last; nobody, if the name is none.
    server: Option<SocketAddr>,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("no such host")]
    NoSuchHost,
    #[error("server misbehaving")]
    Misbehaving,
    #[error("i/o timeout")]
    Timeout,
    #[error(transparent)]
    Name(#[from] hickory_proto::ProtoError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The environment names no name server's address.
#[derive(Debug, thiserror::Error)]
#[error("{SERVER_VARIABLE}={value}: {source}")]
pub struct WrongServer {
    value: String,
    source: std::net::AddrParseError,
}

/// Asks name servers.
#[derive(Debug, Clone)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    /// For one question to one server.
    patience: Duration,
    /// How often each server is asked.
    attempts: u32,
}

impl Resolver {
    /// Asks the servers of `/etc/resolv.conf`, or loopback's if there are none; but `RETCD_DNS_SERVER`, an
    /// `address:port`, if that is set.
    ///
    /// # Errors
    /// The variable holds something else.
    pub fn of_system() -> Result<Self, WrongServer> {
        if let Ok(value) = std::env::var(SERVER_VARIABLE) {
            let server = value.parse().map_err(|source| WrongServer { value, source })?;
            return Ok(Resolver { servers: vec![server], ..Self::of_configuration(b"") });
        }
        // A missing file counts as an empty one, as it does for libc and Go.
        Ok(Self::of_configuration(&std::fs::read("/etc/resolv.conf").unwrap_or_default()))
    }

    fn of_configuration(text: &[u8]) -> Self {
        // Lines that are not understood are passed over, as by libc and Go.
        let (config, _) = resolv_conf::Config::parse_with_errors(text);
        let mut ips: Vec<IpAddr> = config.nameservers.iter().map(IpAddr::from).collect();
        if ips.is_empty() {
            ips = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        }
        Resolver {
            servers: ips.into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect(),
            patience: Duration::from_secs(config.timeout.max(1).into()),
            attempts: config.attempts.max(1),
        }
    }

    /// The services behind a full name such as `_etcd-client._tcp.example.com`, in the order in which to try them.
    ///
    /// # Errors
    /// There are none, or no server tells.
    pub async fn services(&self, name: &str) -> Result<Vec<Service>, Error> {
        let mut services = self.look_up(name, RecordType::SRV, service).await?;
        services.sort_by_key(|service| (service.priority, Reverse(service.weight)));
        Ok(services)
    }

    /// The names of an address, without a dot at their ends.
    ///
    /// # Errors
    /// There are none, or no server tells.
    pub async fn names(&self, ip: IpAddr) -> Result<Vec<String>, Error> {
        let name = Name::from(ip).to_ascii();
        self.look_up(&name, RecordType::PTR, |record| match &record.data {
            RData::PTR(name) => Some(name.to_utf8().trim_end_matches('.').to_owned()),
            _ => None,
        })
        .await
    }

    /// What `pick` takes of the records of one kind; at least one.
    async fn look_up<T>(
        &self,
        name: &str,
        kind: RecordType,
        pick: impl Fn(&Record) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let shown = name.trim_end_matches('.');
        let failed = |server, why| Error { name: shown.to_owned(), server, why };
        let mut name = Name::from_utf8(shown).map_err(|error| failed(None, error.into()))?;
        name.set_fqdn(true);
        let mut last = failed(None, Why::NoSuchHost);
        for _ in 0..self.attempts {
            for &server in &self.servers {
                match self.ask(server, &name, kind).await {
                    Ok(records) => {
                        let found: Vec<T> = records.iter().filter_map(&pick).collect();
                        if found.is_empty() {
                            return Err(failed(Some(server), Why::NoSuchHost));
                        }
                        return Ok(found);
                    }
                    Err(Why::NoSuchHost) => return Err(failed(Some(server), Why::NoSuchHost)),
                    Err(why) => last = failed(Some(server), why),
                }
            }
        }
        Err(last)
    }

    async fn ask(
        &self,
        server: SocketAddr,
        name: &Name,
        kind: RecordType,
    ) -> Result<Vec<Record>, Why> {
        let question = question(name, kind);
        let packet = question.to_vec()?;
        let mut answer = timeout(self.patience, over_udp(server, &question, &packet))
            .await
            .map_err(|_| Why::Timeout)??;
        if answer.metadata.truncation {
            answer = timeout(self.patience, over_tcp(server, &question, &packet))
                .await
                .map_err(|_| Why::Timeout)??;
        }
        match answer.metadata.response_code {
            ResponseCode::NoError => Ok(answer.answers),
            ResponseCode::NXDomain => Err(Why::NoSuchHost),
            _ => Err(Why::Misbehaving),
        }
    }
}

fn question(name: &Name, kind: RecordType) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(LONGEST_DATAGRAM);
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind)).set_edns(edns);
    question
}

async fn over_udp(server: SocketAddr, question: &Message, packet: &[u8]) -> Result<Message, Why> {
    let own: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((own, 0)).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut buffer = [0; LONGEST_DATAGRAM as usize];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anybody can send a datagram that looks as if it came from the server: what does not fit is not the answer.
        if let Some(answer) = answer_to(question, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Message, packet: &[u8]) -> Result<Message, Why> {
    let mut socket = TcpStream::connect(server).await?;
    let length = u16::try_from(packet.len()).map_err(|_| Why::Misbehaving)?;
    socket.write_all(&[&length.to_be_bytes(), packet].concat()).await?;
    let mut buffer = vec![0; socket.read_u16().await?.into()];
    socket.read_exact(&mut buffer).await?;
    answer_to(question, &buffer).ok_or(Why::Misbehaving)
}

fn answer_to(question: &Message, packet: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(packet).ok()?;
    (answer.metadata.id == question.metadata.id && answer.queries == question.queries)
        .then_some(answer)
}

fn service(record: &Record) -> Option<Service> {
    let RData::SRV(record) = &record.data else {
        return None;
    };
    Some(Service {
        priority: record.priority,
        weight: record.weight,
        host: record.target.to_utf8().trim_end_matches('.').to_owned(),
        port: record.port,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::thread;

    use hickory_proto::rr::rdata::{PTR, SRV};

    use super::*;

    const NAME: &str = "_etcd-client._tcp.example.com";

    /// Answers over UDP with what `change` makes of the right answer to each question. The thread ends with the tests.
    fn server(change: impl Fn(Message) -> Vec<Message> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut packet = [0; 1_500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let question = Message::from_vec(&packet[..length]).unwrap();
                for answer in change(question.into_response()) {
                    socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
                }
            }
        });
        address
    }

    fn with(mut answer: Message, records: &[(u16, u16, &str, u16)]) -> Message {
        for &(priority, weight, host, port) in records {
            let data = SRV::new(priority, weight, port, Name::from_ascii(host).unwrap());
            let name = answer.queries[0].name().clone();
            answer.add_answer(Record::from_rdata(name, 60, RData::SRV(data)));
        }
        answer
    }

    fn with_code(mut answer: Message, code: ResponseCode) -> Message {
        answer.metadata.response_code = code;
        answer
    }

    fn resolver(servers: &[SocketAddr]) -> Resolver {
        Resolver { servers: servers.to_vec(), patience: Duration::from_secs(1), attempts: 2 }
    }

    async fn hosts(resolver: &Resolver) -> Vec<String> {
        let services = resolver.services(NAME).await.unwrap();
        services.into_iter().map(|service| format!("{}:{}", service.host, service.port)).collect()
    }

    async fn refusal(resolver: &Resolver) -> String {
        resolver.services(NAME).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn low_priorities_come_first_then_great_weights() {
        let records = [(2, 1, "c.example.com.", 1), (1, 5, "b.example.com.", 2), (1, 9, "a.", 3)];
        let server = server(move |answer| vec![with(answer, &records)]);
        let services = resolver(&[server]).services(NAME).await.unwrap();
        let first = Service { priority: 1, weight: 9, host: "a".to_owned(), port: 3 };
        assert_eq!(services[0], first);
        assert_eq!(
            hosts(&resolver(&[server])).await,
            ["a:3", "b.example.com:2", "c.example.com:1"]
        );
    }

    #[tokio::test]
    async fn an_answer_that_names_nothing_is_an_answer() {
        let unasked = server(|_| panic!("no further server is asked"));
        for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
            let server = server(move |answer| vec![with_code(answer, code)]);
            assert_eq!(
                refusal(&resolver(&[server, unasked])).await,
                format!("lookup {NAME} on {server}: no such host")
            );
        }
    }

    #[tokio::test]
    async fn a_silent_or_broken_server_is_passed_over() {
        let silent = server(|_| Vec::new());
        let broken = server(|answer| vec![with_code(answer, ResponseCode::ServFail)]);
        let works = server(|answer| vec![with(answer, &[(1, 1, "a.", 1)])]);
        assert_eq!(hosts(&resolver(&[silent, broken, works])).await, ["a:1"]);
        assert_eq!(
            refusal(&resolver(&[silent])).await,
            format!("lookup {NAME} on {silent}: i/o timeout")
        );
        assert_eq!(
            refusal(&resolver(&[broken])).await,
            format!("lookup {NAME} on {broken}: server misbehaving")
        );
    }

    #[tokio::test]
    async fn what_does_not_answer_the_question_is_not_believed() {
        let server = server(|answer| {
            let mut of_another_call = with(answer.clone(), &[(1, 1, "evil.", 1)]);
            of_another_call.metadata.id ^= 1;
            let mut of_another_name = with(answer.clone(), &[(1, 1, "evil.", 1)]);
            of_another_name.queries[0].set_name(Name::from_ascii("other.").unwrap());
            vec![of_another_call, of_another_name, with(answer, &[(1, 1, "good.", 1)])]
        });
        assert_eq!(hosts(&resolver(&[server])).await, ["good:1"]);
    }

    #[tokio::test]
    async fn what_does_not_fit_a_datagram_comes_over_tcp() {
        let (udp, listener) = loop {
            let udp = server(|mut answer| {
                answer.metadata.truncation = true;
                vec![answer]
            });
            if let Ok(listener) = TcpListener::bind(udp) {
                break (udp, listener);
            }
        };
        let over_tcp = thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let (mut socket, _) = listener.accept().unwrap();
            let mut length = [0; 2];
            socket.read_exact(&mut length).unwrap();
            let mut packet = vec![0; u16::from_be_bytes(length).into()];
            socket.read_exact(&mut packet).unwrap();
            let records = [(1, 1, "a-host-with-a-long-name.example.com.", 1); 200];
            let answer = with(Message::from_vec(&packet).unwrap().into_response(), &records);
            let packet = answer.to_vec().unwrap();
            let length = u16::try_from(packet.len()).unwrap();
            socket.write_all(&length.to_be_bytes()).unwrap();
            socket.write_all(&packet).unwrap();
        });
        assert_eq!(hosts(&resolver(&[udp])).await.len(), 200);
        over_tcp.join().unwrap();
    }

    #[tokio::test]
    async fn addresses_have_names() {
        let server = server(|mut answer| {
            let asked = answer.queries[0].name().clone();
            assert_eq!(asked.to_ascii(), "4.3.2.10.in-addr.arpa.");
            let data = PTR(Name::from_ascii("m1.example.com.").unwrap());
            answer.add_answer(Record::from_rdata(asked, 60, RData::PTR(data)));
            vec![answer]
        });
        let names = resolver(&[server]).names([10, 2, 3, 4].into()).await.unwrap();
        assert_eq!(names, ["m1.example.com"]);
    }

    #[test]
    fn the_machines_configuration_is_read_as_libc_reads_it() {
        let of = |text: &str| Resolver::of_configuration(text.as_bytes());
        let read = of("nameserver 10.0.0.1\nsearch example.com\nnonsense\nnameserver ::1\n\
                       options timeout:2 attempts:3\n");
        assert_eq!(read.servers, ["10.0.0.1:53", "[::1]:53"].map(|text| text.parse().unwrap()));
        assert_eq!((read.patience, read.attempts), (Duration::from_secs(2), 3));
        let default = of("");
        assert_eq!(default.servers, ["127.0.0.1:53", "[::1]:53"].map(|text| text.parse().unwrap()));
        assert_eq!((default.patience, default.attempts), (Duration::from_secs(5), 2));
    }
}
