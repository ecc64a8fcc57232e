//! Addresses as etcd writes them.
//!
//! Four schemes exist: `http` and `https` with `host:port`, `unix` and `unixs` with a socket path. The text
//! of a URL is its identity: member ids are hashes over such texts, and two members agree on each other's
//! addresses only when the texts are equal. So a parsed [`Url`] keeps what was written, less the spaces around it.
//!
//! A [`UrlList`] is sorted by text, as etcd's lists are, whatever the order in which they were given.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

/// What is wrong with the text of a URL. Messages agree with etcd's where it checks the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    #[error("invalid port in URL: {0}")]
    Port(String),
    #[error("URL must not contain a path: {0}")]
    Path(String),
    #[error("URL must not contain a user, a query or a fragment: {0}")]
    Extra(String),
    #[error("URL has no socket path: {0}")]
    NoSocketPath(String),
    #[error("expected IP in URL for binding ({0})")]
    NotBindable(String),
    #[error("unexpected empty host ({0})")]
    NoHost(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

/// One address. Equality and order are those of the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    /// Where the part behind `scheme://` (or `scheme:`) begins.
    rest: usize,
}

impl Url {
    /// # Errors
    /// [`Error`] names the text and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        let Some(scheme) = scheme.and_then(Scheme::from_name) else {
            return Err(Error::Scheme(text.to_owned()));
        };
        let after = scheme.name().len() + 1;
        let slashes = text[after..].starts_with("//");
        let url = Self { text: text.to_owned(), rest: if slashes { after + 2 } else { after } };
        if scheme.is_unix() { url.check_socket(slashes) } else { url.check_host_port(slashes) }?;
        Ok(url)
    }

    fn check_socket(&self, slashes: bool) -> Result<(), Error> {
        let path = self.rest();
        // Without slashes only an absolute path is a path in Go's reading of a URL.
        if path.is_empty() || path == "/" || (!slashes && !path.starts_with('/')) {
            return Err(Error::NoSocketPath(self.text.clone()));
        }
        Ok(())
    }

    fn check_host_port(&self, slashes: bool) -> Result<(), Error> {
        let rest = self.rest();
        if rest.contains(['?', '#', '@']) {
            return Err(Error::Extra(self.text.clone()));
        }
        let authority = rest.split('/').next().unwrap_or_default();
        let Some((_, port)) = split_host_port(authority).filter(|_| slashes) else {
            return Err(Error::HostPort(self.text.clone()));
        };
        if authority.len() != rest.len() {
            return Err(Error::Path(self.text.clone()));
        }
        if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err() {
            return Err(Error::Port(self.text.clone()));
        }
        Ok(())
    }

    fn rest(&self) -> &str {
        &self.text[self.rest..]
    }

    pub fn scheme(&self) -> Scheme {
        let name = self.text.split(':').next().unwrap_or_default();
        Scheme::from_name(name).expect("parse has checked the scheme")
    }

    /// Whether what is spoken there is wrapped in TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme(), Scheme::Https | Scheme::Unixs)
    }

    /// The host without the brackets of an IPv6 address; none for a socket path.
    pub fn host(&self) -> Option<&str> {
        self.host_port().map(|(host, _)| host)
    }

    pub fn port(&self) -> Option<u16> {
        self.host_port().map(|(_, port)| port.parse().expect("parse has checked the port"))
    }

    fn host_port(&self) -> Option<(&str, &str)> {
        (!self.scheme().is_unix()).then(|| split_host_port(self.rest())).flatten()
    }

    /// The socket path of `unix` and `unixs`. In `unix://localhost:1234` it is the relative path
    /// `localhost:1234`, as in etcd, whose tests use such names.
    pub fn socket_path(&self) -> Option<&Path> {
        self.scheme().is_unix().then(|| Path::new(self.rest()))
    }

    /// `host:port` or the socket path, as written: URLs with the same one lead to the same socket.
    pub fn address(&self) -> &str {
        self.rest()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same scheme and port at another host.
    ///
    /// # Errors
    /// [`Error::HostPort`] for a socket path.
    pub fn with_host(&self, host: IpAddr) -> Result<Self, Error> {
        let port = self.port().ok_or_else(|| Error::HostPort(self.text.clone()))?;
        let host = if host.is_ipv6() { format!("[{host}]") } else { host.to_string() };
        Self::parse(&format!("{}://{host}:{port}", self.scheme().name()))
    }

    /// Whether a member can listen here: only addresses of its own are allowed, so no names but `localhost`.
    ///
    /// # Errors
    /// [`Error::NotBindable`].
    pub fn check_bindable(&self) -> Result<(), Error> {
        match self.host() {
            None | Some("localhost") => Ok(()),
            Some(host) if host.parse::<IpAddr>().is_ok() => Ok(()),
            Some(_) => Err(Error::NotBindable(self.text.clone())),
        }
    }

    /// Whether others can be told to connect here: some host must be named.
    ///
    /// # Errors
    /// [`Error::NoHost`].
    pub fn check_advertisable(&self) -> Result<(), Error> {
        match self.host() {
            Some("") => Err(Error::NoHost(self.text.clone())),
            _ => Ok(()),
        }
    }
}

/// Splits at the last colon. An IPv6 address needs its brackets, which are cut off.
pub fn split_host_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    if let Some(inner) = host.strip_prefix('[') {
        return Some((inner.strip_suffix(']')?, port));
    }
    (!host.contains([':', '[', ']'])).then_some((host, port))
}

impl Scheme {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "http" => Self::Http,
            "https" => Self::Https,
            "unix" => Self::Unix,
            "unixs" => Self::Unixs,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Unixs => "unixs",
        }
    }

    pub fn is_unix(self) -> bool {
        matches!(self, Self::Unix | Self::Unixs)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Url {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

/// URLs in the order of their texts. Prints comma separated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UrlList(Vec<Url>);

impl UrlList {
    /// Reads a comma separated list. The empty text is the empty list; a text given twice counts once.
    ///
    /// # Errors
    /// The first [`Error`] of its members.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(Url::parse).collect()
    }

    /// The URLs as texts, sorted.
    pub fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(Url::to_string).collect()
    }
}

impl std::ops::Deref for UrlList {
    type Target = [Url];

    fn deref(&self) -> &[Url] {
        &self.0
    }
}

impl FromIterator<Url> for UrlList {
    fn from_iter<I: IntoIterator<Item = Url>>(urls: I) -> Self {
        let mut urls: Vec<Url> = urls.into_iter().collect();
        urls.sort();
        urls.dedup();
        Self(urls)
    }
}

impl<'a> IntoIterator for &'a UrlList {
    type Item = &'a Url;
    type IntoIter = std::slice::Iter<'a, Url>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl FromStr for UrlList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for UrlList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, url) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(url.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn parts_of_a_tcp_url() {
        let url = parsed(" http://10.0.0.1:2379 ");
        assert_eq!(url.as_str(), "http://10.0.0.1:2379");
        assert_eq!((url.host(), url.port()), (Some("10.0.0.1"), Some(2379)));
        assert!(!url.is_tls());
        assert_eq!(url.socket_path(), None);

        let url = parsed("https://[::1]:0");
        assert_eq!((url.host(), url.port()), (Some("::1"), Some(0)));
        assert!(url.is_tls());
    }

    #[test]
    fn parts_of_a_socket_url() {
        for (text, path) in [
            ("unix:///run/etcd.sock", "/run/etcd.sock"),
            ("unix:/run/etcd.sock", "/run/etcd.sock"),
            ("unixs://localhost:m1", "localhost:m1"),
        ] {
            let url = parsed(text);
            assert_eq!(url.socket_path(), Some(Path::new(path)), "{text}");
            assert_eq!((url.host(), url.port()), (None, None), "{text}");
        }
        assert!(parsed("unixs://a").is_tls());
    }

    #[test]
    fn what_is_not_an_address() {
        for text in ["", "127.0.0.1:2379", "ftp://a:1", "HTTP//a:1"] {
            assert_eq!(Url::parse(text), Err(Error::Scheme(text.to_owned())), "{text}");
        }
        for text in
            ["http://localhost", "http:a:1", "http://::1:2379", "http://[::1:2379", "http://"]
        {
            assert_eq!(Url::parse(text), Err(Error::HostPort(text.to_owned())), "{text}");
        }
        for text in ["http://a:1/", "http://a:1/v3"] {
            assert_eq!(Url::parse(text), Err(Error::Path(text.to_owned())), "{text}");
        }
        for text in ["http://a:", "http://a:x", "http://a:70000", "http://a:+1"] {
            assert_eq!(Url::parse(text), Err(Error::Port(text.to_owned())), "{text}");
        }
        for text in ["http://u@a:1", "http://a:1?x", "http://a:1#x"] {
            assert_eq!(Url::parse(text), Err(Error::Extra(text.to_owned())), "{text}");
        }
        for text in ["unix:", "unix://", "unix:///", "unix:sock"] {
            assert_eq!(Url::parse(text), Err(Error::NoSocketPath(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn only_own_addresses_can_be_bound() {
        for text in ["http://0.0.0.0:1", "http://[::]:1", "http://localhost:1", "unix://a"] {
            assert_eq!(parsed(text).check_bindable(), Ok(()), "{text}");
        }
        for text in ["http://example.com:1", "http://:1"] {
            assert_eq!(parsed(text).check_bindable(), Err(Error::NotBindable(text.to_owned())));
        }
        assert_eq!(
            parsed("http://:1").check_advertisable(),
            Err(Error::NoHost("http://:1".to_owned()))
        );
        assert_eq!(parsed("http://example.com:1").check_advertisable(), Ok(()));
    }

    #[test]
    fn lists_are_sorted_and_join_with_commas() {
        let list = UrlList::parse("http://b:2, http://a:1,http://b:2").unwrap();
        assert_eq!(list.to_string(), "http://a:1,http://b:2");
        assert_eq!(list.to_strings(), ["http://a:1", "http://b:2"]);
        assert_eq!(list.to_string().parse::<UrlList>(), Ok(list));
        assert_eq!(UrlList::parse(""), Ok(UrlList::default()));
        assert_eq!(UrlList::parse("http://a:1,"), Err(Error::Scheme(String::new())));
    }

    #[test]
    fn another_host_keeps_scheme_and_port() {
        let url = parsed("https://localhost:2380");
        assert_eq!(url.with_host([10, 1, 2, 3].into()).unwrap().as_str(), "https://10.1.2.3:2380");
        let six: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(url.with_host(six).unwrap().as_str(), "https://[fd00::1]:2380");
    }
}
