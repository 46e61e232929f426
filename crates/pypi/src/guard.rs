//! Where this program may connect to: a page of an index on the internet must not make it ask the machines of the
//! network that it runs in.
//!
//! What always holds: unless upstream itself is at an address that is not globally reachable (`reach.rs`), the program
//! connects to no such address. An address in a URL is refused before each request, also that of a redirect; a name is
//! judged by what it resolves to at the moment of connecting, so it cannot change its meaning in between. Behind a proxy,
//! the proxy resolves and judges names. Tested below and in `tests/client.rs`.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;
use url::{Host, Url};

use crate::reach::is_globally_reachable;
use crate::url_check::{is_local_host, shown};

/// What may not be asked, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// Decides where may be connected to.
#[derive(Debug)]
pub(crate) struct Guard {
    upstream: Host,
    upstream_name: String,
    /// Where to connect instead of upstream's own addresses: host and port.
    connect_to: Option<(String, u16)>,
    /// The proxies' hosts, which may well be in a private network.
    proxies: Vec<String>,
    /// Set once it is known whether upstream is at a local address; the first answer counts.
    local_allowed: OnceLock<bool>,
    /// Set once that was asked for ahead of a connection.
    asked: OnceCell<()>,
}

impl Guard {
    /// `upstream` has a host.
    pub(crate) fn new(upstream: &Url, connect_to: Option<(String, u16)>, proxies: Vec<String>) -> Option<Self> {
        let guard = Self {
            upstream: upstream.host()?.to_owned(),
            upstream_name: upstream.host_str()?.to_owned(),
            connect_to,
            proxies,
            local_allowed: OnceLock::new(),
            asked: OnceCell::new(),
        };
        if !matches!(guard.upstream, Host::Domain(_)) || is_local_host(upstream) {
            guard.local_allowed.get_or_init(|| is_local_host(upstream));
        }
        Some(guard)
    }

    /// Whether local addresses may be asked; no, as long as upstream's own were not seen.
    pub(crate) fn local_allowed(&self) -> bool {
        self.local_allowed.get().copied().unwrap_or(false)
    }

    /// Finds out where upstream is, unless that is known. If upstream cannot be found, the request reports that, if it
    /// matters: behind a proxy it does not, and the look-up before each request would be in vain, so this asks once. A
    /// connection to upstream asks anyway.
    pub(crate) async fn learn(&self) {
        if self.local_allowed.get().is_some() {
            return;
        }
        self.asked
            .get_or_init(|| async {
                if let Err(error) = self.resolve_upstream().await {
                    tracing::debug!(host = self.upstream_name, %error, "upstream's host was not resolved");
                }
            })
            .await;
    }

    async fn resolve_upstream(&self) -> io::Result<Vec<SocketAddr>> {
        let addresses: Vec<_> = match &self.connect_to {
            Some((host, port)) => tokio::net::lookup_host((host.as_str(), *port)).await?.collect(),
            None => tokio::net::lookup_host((self.upstream_name.as_str(), 0)).await?.collect(),
        };
        if !addresses.is_empty() {
            self.local_allowed.get_or_init(|| addresses.iter().any(|address| !is_globally_reachable(address.ip())));
        }
        Ok(addresses)
    }

    /// Refuses what the URL alone shows to be somewhere else than on the internet.
    pub(crate) fn check(&self, url: &Url) -> Result<(), Refused> {
        let refuse = |why: &str| Err(Refused(format!("`{}` is not asked: {why}", shown(url.as_str()))));
        if !matches!(url.scheme(), "http" | "https") {
            return refuse("it is neither http nor https");
        }
        if self.local_allowed() || url.host_str() == Some(&self.upstream_name) {
            return Ok(());
        }
        if is_local_host(url) {
            return refuse("it leads into a private network, where upstream itself is not");
        }
        if url.host_str().is_some_and(|host| self.proxies.iter().any(|proxy| proxy == host)) {
            return refuse("its host is the proxy's");
        }
        Ok(())
    }

    /// The addresses of a name that may be connected to.
    fn filter(&self, name: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
        if self.local_allowed() || self.proxies.iter().any(|proxy| proxy.eq_ignore_ascii_case(name)) {
            return Ok(addresses);
        }
        let (public, local): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| is_globally_reachable(address.ip()));
        match local.first() {
            Some(address) if public.is_empty() => Err(Refused(format!(
                "`{name}` is not asked: it leads into a private network ({}), where upstream itself is not",
                address.ip()
            ))),
            _ => Ok(public),
        }
    }

    async fn resolve(&self, name: &str) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
        if name.eq_ignore_ascii_case(&self.upstream_name) {
            let addresses = self.resolve_upstream().await?;
            // An operator who says where to connect to means it.
            return if self.connect_to.is_some() { Ok(addresses) } else { Ok(self.filter(name, addresses)?) };
        }
        let addresses = tokio::net::lookup_host((name, 0)).await?.collect();
        Ok(self.filter(name, addresses)?)
    }
}

/// Resolves names for the clients, through the guard.
#[derive(Debug)]
pub(crate) struct Resolver(pub(crate) Arc<Guard>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses = guard.resolve(name.as_str()).await?;
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

/// The hosts of the proxies that the environment names.
pub(crate) fn proxy_hosts(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    ["http_proxy", "https_proxy", "all_proxy"]
        .into_iter()
        .flat_map(|name| [name.to_owned(), name.to_ascii_uppercase()])
        .filter_map(|name| variable(&name))
        .filter_map(|text| {
            let text = if text.contains("://") { text } else { format!("http://{text}") };
            Url::parse(&text).ok()?.host_str().map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use strandline_sync::upstream::{Problem, Way};

    use super::*;
    use crate::client::{Client, Limits};
    use crate::credentials::Logins;

    fn guard(upstream: &str) -> Guard {
        Guard::new(&upstream.parse().unwrap(), None, vec!["proxy.example".to_owned()]).unwrap()
    }

    fn addresses(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect()
    }

    #[test]
    fn a_public_upstream_cannot_lead_inside() {
        let guard = guard("https://index.example/simple/");
        for url in ["http://127.0.0.1:9/", "https://[::1]/", "http://localhost/", "ftp://files.example/"] {
            assert!(guard.check(&url.parse().unwrap()).is_err(), "{url}");
        }
        assert!(guard.check(&"http://proxy.example:3128/".parse().unwrap()).is_err());
        assert!(guard.check(&"https://files.example/".parse().unwrap()).is_ok());
        let error = guard.filter("files.example", addresses(&["10.0.0.1", "::1"])).unwrap_err();
        insta::assert_snapshot!(error, @"`files.example` is not asked: it leads into a private network (10.0.0.1), where upstream itself is not");
        let some = guard.filter("files.example", addresses(&["10.0.0.1", "8.8.8.8"])).unwrap();
        assert_eq!(some, addresses(&["8.8.8.8"]));
        assert!(guard.filter("proxy.example", addresses(&["10.0.0.1"])).is_ok());
    }

    #[test]
    fn an_upstream_inside_may_lead_inside() {
        for upstream in ["http://10.0.0.1/simple/", "http://localhost:1/simple/", "http://[::1]/simple/"] {
            let guard = guard(upstream);
            assert!(guard.local_allowed(), "{upstream}");
            assert!(guard.check(&"http://192.168.1.1/".parse().unwrap()).is_ok());
            assert!(guard.filter("files.example", addresses(&["10.0.0.1"])).is_ok());
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_when_it_is_connected_to() {
        let public = guard("https://8.8.8.8/simple/");
        let error = public.resolve("localhost").await.unwrap_err();
        assert!(error.downcast_ref::<Refused>().is_some(), "{error}");
        let inside = guard("http://127.0.0.1/simple/");
        assert!(!inside.resolve("localhost").await.unwrap().is_empty());
    }

    /// A name whose label is longer than DNS has, so that no server is asked for it.
    fn nowhere() -> String {
        format!("https://{}.example/simple/", "x".repeat(64))
    }

    #[tokio::test]
    async fn upstream_is_looked_for_once_where_it_cannot_be_found() {
        let guard = guard(&nowhere());
        assert!(!guard.asked.initialized());
        for _ in 0..2 {
            guard.learn().await;
            assert!(guard.asked.initialized() && guard.local_allowed.get().is_none());
        }
        // A connection that does not go through the proxy still asks; then it is known where upstream is.
        guard.resolve(&guard.upstream_name).await.unwrap_err();
        let near = super::Guard::new(&"https://localhost./".parse().unwrap(), None, Vec::new()).unwrap();
        near.learn().await;
        assert!(near.local_allowed());
    }

    #[tokio::test]
    async fn connect_to_says_where_upstream_is() {
        let upstream = "https://index.example/simple/".parse().unwrap();
        let guard = Guard::new(&upstream, Some(("127.0.0.1".to_owned(), 8443)), Vec::new()).unwrap();
        let addresses = guard.resolve("index.example").await.unwrap();
        assert_eq!(addresses, ["127.0.0.1:8443".parse().unwrap()]);
        assert!(guard.local_allowed());
    }

    /// What a connection to a URL's host comes to, which no check looked at before.
    async fn connected(guard: Guard, url: &str) -> Result<u16, Problem> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let client = builder.dns_resolver(Arc::new(Resolver(Arc::new(guard)))).build().unwrap();
        client.get(url).send().await.map(|response| response.status().as_u16()).map_err(crate::client::problem)
    }

    /// What the program's own client makes of a URL.
    async fn asked(guard: Guard, url: &str) -> Result<u16, Problem> {
        let url = url.parse().unwrap();
        let logins = Logins::take(&mut "http://index.example/".parse().unwrap(), None, None, |_| None).unwrap();
        let limits = Limits { page: 100, file: None, connections: 1, idle: std::time::Duration::from_secs(5) };
        let client = Client::new(logins, guard, None, limits).unwrap();
        let answer = client.page(crate::client::What::Page, &url, None, Way::Usual).await;
        answer.map(|fetched| fetched.status.as_u16()).map_err(|error| error.problem)
    }

    #[tokio::test]
    async fn redirects_and_names_are_refused_as_urls_are() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = [0; 1024];
                let count = io::Read::read(&mut stream, &mut head).unwrap_or(0);
                let answer = if head[..count].starts_with(b"GET /end") {
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned()
                } else {
                    let to = format!("http://127.0.0.1:{port}/end");
                    format!("HTTP/1.1 302 Found\r\nconnection: close\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
                };
                io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
            }
        });
        let (address, name) = (format!("http://127.0.0.1:{port}/"), format!("http://localhost:{port}/"));
        let is_refused = |refused: Result<u16, Problem>| {
            assert!(matches!(&refused, Err(Problem::Forbidden(why)) if why.contains("private")), "{refused:?}");
        };
        for url in [&address, &name] {
            assert_eq!(asked(guard("http://127.0.0.1/simple/"), url).await, Ok(200));
            is_refused(asked(guard("https://8.8.8.8/simple/"), url).await);
        }
        assert_eq!(connected(guard("http://127.0.0.1/simple/"), &name).await, Ok(302));
        is_refused(connected(guard("https://8.8.8.8/simple/"), &name).await);
        // An upstream on the internet, as far as is known, that answers with a redirect inside.
        let mut public = guard(&name);
        (public.connect_to, public.local_allowed) = (Some(("127.0.0.1".to_owned(), port)), OnceLock::from(false));
        is_refused(asked(public, &name).await);
    }

    #[test]
    fn proxies_of_the_environment() {
        let hosts = proxy_hosts(|name| match name {
            "http_proxy" => Some("proxy.example:3128".to_owned()),
            "HTTPS_PROXY" => Some("http://user:secret@10.0.0.1:3128/".to_owned()),
            _ => None,
        });
        assert_eq!(hosts, ["proxy.example", "10.0.0.1"]);
    }
}
