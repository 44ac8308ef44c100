//! Who may talk to what listens on loopback: programs of this machine, and no web page. A browser lets any page send
//! requests to this machine; it says by `Origin` which page did, and by `Host` under which name it found us.

use hyper::{
    HeaderMap, Uri,
    header::{HOST, HeaderName, HeaderValue, ORIGIN},
};
use std::net::IpAddr;

/// Why a request is not served; `None` where it is.
pub fn refusal(headers: &HeaderMap, uri: &Uri) -> Option<&'static str> {
    let all = |name: HeaderName, on_loopback: fn(&str) -> bool| {
        let fits = |value: &HeaderValue| value.to_str().is_ok_and(on_loopback);
        headers.get_all(name).iter().all(fits)
    };
    if !all(ORIGIN, |origin| origin_host(origin).is_some_and(is_loopback)) {
        return Some("requests of web pages are not served: Origin is not on loopback\n");
    }
    let named = uri.authority().is_none_or(|authority| host_of(authority.as_str()).is_some_and(is_loopback));
    if !named || !all(HOST, |host| host_of(host).is_some_and(is_loopback)) {
        return Some("this is served on loopback alone: Host is another name\n");
    }
    None
}

/// The host of `scheme://host:port`; a page without an origin of its own says `null`.
fn origin_host(origin: &str) -> Option<&str> {
    let rest = origin.split_once("://")?.1;
    host_of(rest)
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn host_of(authority: &str) -> Option<&str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return (port.is_empty() || is_port(port.strip_prefix(':')?)).then_some(host);
    }
    match authority.split_once(':') {
        Some((host, port)) => is_port(port).then_some(host),
        None => Some(authority),
    }
}

fn is_port(port: &str) -> bool {
    port.parse::<u16>().is_ok()
}

fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(headers: &[(HeaderName, &str)], uri: &str) -> bool {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(name, value.parse().unwrap());
        }
        refusal(&all, &uri.parse().unwrap()).is_none()
    }

    #[test]
    fn programs_of_this_machine_are_served() {
        for host in [
            "127.0.0.1:9944",
            "localhost",
            "LOCALHOST:1",
            "[::1]:80",
            "[::1]",
            "127.3.2.1",
            "a.localhost:3",
            "localhost.",
        ] {
            assert!(served(&[(HOST, host)], "/"), "{host}");
        }
        assert!(served(&[], "/"), "HTTP/1.0 has no Host, and no browser speaks it");
        for origin in ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:8080", "https://localhost"] {
            assert!(served(&[(HOST, "127.0.0.1:9944"), (ORIGIN, origin)], "/"), "{origin}");
        }
        assert!(served(&[], "http://127.0.0.1:80/x"));
    }

    #[test]
    fn pages_are_not() {
        let pages = [
            "https://example.org",
            "http://localhost.example.org",
            "http://127.0.0.1.example.org:9944",
            "http://example.org:80@127.0.0.1",
            "http://user@localhost",
            "null",
            "",
            "localhost",
            "file://",
        ];
        for origin in pages {
            assert!(!served(&[(HOST, "127.0.0.1:9944"), (ORIGIN, origin)], "/"), "{origin:?}");
        }
        // A name of a page's own that resolves to this machine.
        for host in
            ["example.org:9944", "localhost.example.org", "10.0.0.1", "127.0.0.1@example.org", "", "[::1", "0.0.0.0"]
        {
            assert!(!served(&[(HOST, host)], "/"), "{host:?}");
        }
        assert!(!served(&[(HOST, "localhost"), (HOST, "example.org")], "/"), "the second counts as well");
        assert!(!served(&[(HOST, "localhost")], "http://example.org/x"), "nor one whose address is another's");
    }
}
