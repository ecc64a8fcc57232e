//! `name=URL,...`: who is in the cluster when it starts. A name may repeat, once for each of its URLs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::{Url, UrlList, url};

/// Why a cluster cannot be started with what was said about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Url(#[from] url::Error),
    #[error("couldn't find local name {0:?} in the initial cluster configuration")]
    NameNotInCluster(String),
    #[error("initial cluster {0} has duplicate url")]
    DuplicateUrl(String),
    #[error(
        "--initial-cluster has {cluster} but missing from --initial-advertise-peer-urls={advertised}"
    )]
    UrlNotAdvertised { cluster: String, advertised: String },
    #[error(
        "--initial-advertise-peer-urls has {advertised} but missing from --initial-cluster={cluster}"
    )]
    UrlNotInCluster { advertised: String, cluster: String },
}

/// Members and their peer URLs, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InitialCluster(BTreeMap<String, UrlList>);

impl InitialCluster {
    /// # Errors
    /// [`Error::Url`]; a pair without `=` has an empty URL.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
            members.entry(name.to_owned()).or_default().push(Url::parse(url)?);
        }
        let lists = members.into_iter().map(|(name, urls)| (name, urls.into_iter().collect()));
        Ok(Self(lists.collect()))
    }

    /// The cluster of one member.
    pub fn single(name: &str, urls: UrlList) -> Self {
        Self(BTreeMap::from([(name.to_owned(), urls)]))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Members in the order of their names.
    pub fn members(&self) -> impl Iterator<Item = (&str, &UrlList)> {
        self.0.iter().map(|(name, urls)| (name.as_str(), urls))
    }

    /// Checks what the first start needs: the member finds itself, and with the URLs it advertises.
    ///
    /// # Errors
    /// All of [`Error`] but [`Error::Url`].
    pub fn check(&self, name: &str, advertised: &UrlList) -> Result<(), Error> {
        let own = self.0.get(name).ok_or_else(|| Error::NameNotInCluster(name.to_owned()))?;
        let mut seen = BTreeSet::new();
        if !self.0.values().flatten().all(|url| seen.insert(url)) {
            return Err(Error::DuplicateUrl(self.to_string()));
        }
        let missing = |from: &UrlList, other: &UrlList| {
            from.iter().find(|url| !other.contains(url)).map(Url::to_string)
        };
        if let Some(url) = missing(own, advertised) {
            let cluster = format!("{name}={url}");
            return Err(Error::UrlNotAdvertised { cluster, advertised: advertised.to_string() });
        }
        if let Some(url) = missing(advertised, own) {
            let advertised = format!("{name}={url}");
            return Err(Error::UrlNotInCluster { advertised, cluster: self.to_string() });
        }
        Ok(())
    }
}

/// Pairs sorted by text, as etcd prints them.
impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self
            .members()
            .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
        let mut pairs: Vec<String> = pairs.collect();
        pairs.sort();
        f.write_str(&pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_repeat_for_several_urls() {
        let cluster = InitialCluster::parse("b=http://b:1,a=http://a:2,a=http://a:1").unwrap();
        let members: Vec<_> =
            cluster.members().map(|(name, urls)| (name, urls.to_string())).collect();
        assert_eq!(
            members,
            [("a", "http://a:1,http://a:2".to_owned()), ("b", "http://b:1".to_owned())]
        );
        assert_eq!(cluster.to_string(), "a=http://a:1,a=http://a:2,b=http://b:1");
        assert!(InitialCluster::parse("").unwrap().is_empty());
        assert!(InitialCluster::parse("a").is_err());
        assert!(InitialCluster::parse("a=b=http://c:1").is_err());
    }

    #[test]
    fn the_first_start_needs_agreement() {
        let check = |cluster: &str, name: &str, advertised: &str| {
            let cluster = InitialCluster::parse(cluster).unwrap();
            let advertised = UrlList::parse(advertised).unwrap();
            cluster.check(name, &advertised).map_err(|error| error.to_string())
        };
        assert_eq!(check("a=http://a:1", "a", "http://a:1"), Ok(()));
        assert_eq!(
            check("a=http://a:1", "b", "http://a:1").unwrap_err(),
            "couldn't find local name \"b\" in the initial cluster configuration"
        );
        assert_eq!(
            check("a=http://a:1", "a", "http://a:2").unwrap_err(),
            "--initial-cluster has a=http://a:1 but missing from \
             --initial-advertise-peer-urls=http://a:2"
        );
        assert!(check("a=http://a:1", "a", "http://a:1,http://a:2").is_err());
        assert_eq!(
            check("a=http://a:1,b=http://a:1", "a", "http://a:1").unwrap_err(),
            "initial cluster a=http://a:1,b=http://a:1 has duplicate url"
        );
    }
}
