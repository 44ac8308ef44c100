//! A bucket's address: where it is, and whether we may go there.

use record::Report;
use std::net::IpAddr;
use url::{Host, Url};

/// A key that its owner published so that others can read; it opens nothing of ours.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ReadKey {
    pub(crate) id: String,
    pub(crate) secret: String,
}

impl std::fmt::Debug for ReadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadKey")
    }
}

/// Where a bucket is. What a peer commits on the chain has one of three forms:
/// - `https://ENDPOINT/BUCKET`, or `https://KEYID:SECRET@ENDPOINT/BUCKET` with a read-only key;
/// - Templar's 128 characters: account, id and secret of a read-only key, of a bucket at Cloudflare R2 that is called
///   like the account;
/// - a bare name, as BOLTZMANN's: a bucket at AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Scheme, host and port.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    pub(crate) read_key: Option<ReadKey>,
    host: Host<String>,
    secure: bool,
}

/// Where a bare bucket name is looked for.
const BARE_NAMES_AT: &str = "https://s3.us-east-1.amazonaws.com";

fn is_bucket(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (3..=63).contains(&name.len()) && name.chars().all(fits) && !name.contains("..")
}

/// As much of an address as may be shown, were it somebody's key: nothing before an `@`, no query, no fragment; and of
/// what is no URL its beginning, since it may be a key that stands in the wrong place.
fn shown(text: &str) -> String {
    const BEGINNING: usize = 8;
    let (hidden, rest) = match text.rsplit_once('@') {
        Some((_, rest)) => ("…@", rest),
        None => ("", text),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let is_url = Url::parse(rest).is_ok_and(|url| url.has_host());
    let (most, cut) = if is_url || !hidden.is_empty() { (120, "") } else { (BEGINNING, "…") };
    let clean: String = rest.chars().filter(|c| !c.is_control()).take(most).collect();
    let cut = if clean.len() < rest.len() { cut } else { "" };
    format!("{hidden}{clean}{cut}")
}

impl Address {
    /// Whether its owner published a key with it.
    pub fn has_key(&self) -> bool {
        self.read_key.is_some()
    }

    /// Read an address.
    ///
    /// # Errors
    /// Exit code 65 when it is none.
    pub fn parse(text: &str) -> Result<Self, Report> {
        if text.len() == 128
            && text.bytes().all(|b| b.is_ascii_hexdigit())
            && let (Some(account), Some(id), Some(secret)) = (text.get(..32), text.get(32..64), text.get(64..))
        {
            let account = account.to_ascii_lowercase();
            let mut address = Self::of_url(&format!("https://{account}.r2.cloudflarestorage.com/{account}"), "")?;
            address.read_key = Some(ReadKey { id: id.into(), secret: secret.into() });
            return Ok(address);
        }
        if is_bucket(text) {
            return Self::of_url(&format!("{BARE_NAMES_AT}/{text}"), text);
        }
        Self::of_url(text, text)
    }

    fn of_url(text: &str, said: &str) -> Result<Self, Report> {
        let shown = shown(said);
        let wrong = |why: &str| {
            Report::data(format!("{shown:?} is no bucket's address: {why}"))
                .hint("an address is https://ENDPOINT/BUCKET, such as https://s3.example.org/miner7")
        };
        if text.len() > 512 {
            return Err(wrong("longer than 512 bytes"));
        }
        let url = Url::parse(text).map_err(|e| wrong(&e.to_string()))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(wrong("neither http nor https"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it has more than a host and a bucket"));
        }
        let plain =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_+/=".contains(&b));
        let read_key = match (url.username(), url.password()) {
            ("", None) => None,
            (id, Some(secret)) if plain(id) && plain(secret) => Some(ReadKey { id: id.into(), secret: secret.into() }),
            _ => {
                return Err(wrong(
                    "a read-only key is its id, a colon and the rest of it before the @, of letters, digits and -_",
                ));
            }
        };
        let host = url.host().ok_or_else(|| wrong("no host"))?.to_owned();
        let bucket = url.path().trim_matches('/').to_string();
        if !is_bucket(&bucket) {
            return Err(wrong("a bucket's name is 3 to 63 of a-z 0-9 - ."));
        }
        let port = url.port().map_or(String::new(), |port| format!(":{port}"));
        let endpoint = format!("{}://{host}{port}", url.scheme());
        Ok(Address { endpoint, bucket, read_key, host, secure: url.scheme() == "https" })
    }

    /// Whether a peer's bucket may be there; a name is checked again when it is resolved.
    ///
    /// # Errors
    /// Exit code 65 with the reason.
    pub fn allow(&self, local: bool) -> Result<(), Report> {
        if !local && !self.secure {
            return Err(Report::data(format!("{} is not https", self.endpoint)));
        }
        let address = match &self.host {
            Host::Ipv4(ip) => IpAddr::V4(*ip),
            Host::Ipv6(ip) => IpAddr::V6(*ip),
            Host::Domain(name) if name == "localhost" || name.ends_with(".localhost") => {
                IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)
            }
            Host::Domain(_) if local => return Err(Report::data(format!("{} is not on this machine", self.endpoint))),
            Host::Domain(_) => return Ok(()),
        };
        if may_connect(address, local) {
            Ok(())
        } else {
            Err(Report::data(format!("{} points into a private network", self.endpoint)))
        }
    }

    /// The address of an object.
    pub fn url(&self, key: &str) -> String {
        format!("{}/{}/{key}", self.endpoint, self.bucket)
    }
}

/// Whether a peer's bucket may be at this address: on the public internet, or on this machine's loopback when the run
/// is.
pub fn may_connect(ip: IpAddr, local: bool) -> bool {
    // An IPv4 address in IPv6 clothes is that IPv4 address.
    let ip = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    if local {
        return ip.is_loopback();
    }
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b)) // carrier-grade NAT, RFC 6598
                || (a == 198 && (18..20).contains(&b)) // benchmarks, RFC 2544
                || (a == 192 && b == 0 && c == 0)) // protocol assignments, RFC 6890
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            // Global unicast is 2000::/3; 2002::/16 and 64:ff9b::/96 hide an IPv4 address, 2001:db8::/32 is for
            // documents.
            (first & 0xe000) == 0x2000
                && first != 0x2002
                && !(first == 0x2001 && v6.segments()[1] < 0x0200)
                && !(first == 0x2001 && v6.segments()[1] == 0x0db8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_strictly() {
        let good = Address::parse("http://127.0.0.1:9100/m-7").unwrap();
        assert_eq!((good.endpoint.as_str(), good.bucket.as_str()), ("http://127.0.0.1:9100", "m-7"));
        assert_eq!(good.url("a/b"), "http://127.0.0.1:9100/m-7/a/b");
        for bad in [
            "",
            "ftp://a/bucket",
            "https://a",
            "https://a/b/c",
            "https://u@a.b/bucket",
            "https://u:p%20q@a.b/bucket",
            "https://:p@a.b/bucket",
            "M7-bucket",
            "https://a.b/bucket?x=1",
            "https://a.b/BUCKET",
            "https://a.b/../x",
            "https:///bucket",
            "file:///etc/passwd",
            "https://a.b/bu\ncket%00",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Address::parse(&format!("https://a.b/{}", "x".repeat(1000))).is_err());
    }

    #[test]
    fn a_bucket_has_three_forms() {
        let bare = Address::parse("miner-7").unwrap();
        assert_eq!(bare.url("k"), "https://s3.us-east-1.amazonaws.com/miner-7/k");
        let keyed = Address::parse("https://ID:SECRET@a.b/bucket").unwrap();
        assert_eq!(keyed.url("k"), "https://a.b/bucket/k", "the key is in no address that is shown");
        assert_eq!(keyed.read_key.as_ref().map(|k| (k.id.as_str(), k.secret.as_str())), Some(("ID", "SECRET")));
        assert!(!format!("{keyed:?}").contains("SECRET"));
        let templar = format!("{}{}{}", "0a".repeat(16), "1b".repeat(16), "2c".repeat(32));
        let templar = Address::parse(&templar).unwrap();
        let account = "0a".repeat(16);
        assert_eq!(templar.url("k"), format!("https://{account}.r2.cloudflarestorage.com/{account}/k"));
        assert_eq!(templar.read_key.as_ref().map(|k| k.secret.clone()), Some("2c".repeat(32)));
        let mistyped = format!("{}SECRET", "0a".repeat(60));
        for wrong in [
            "https://ID:SECRET@a/b/c",
            "https://ID:SECRET@/bucket",
            "https://ID:SECRET",
            "https://ID:SE@CRET@a.b/c/d",
            "https://ID:x?SECRET@a.b/c/d",
            "https://ID:1/SECRET@a.b/c/d",
            "https://a.b/bucket?X-Amz-Signature=SECRET",
            "https://a.b/bucket#SECRET",
            "ID-12345:SECRET",
            "AKIAIOSFODNN7/SECRET",
            &mistyped,
        ] {
            let said = Address::parse(wrong).unwrap_err().to_string();
            assert!(!said.contains("SECRET") && !said.contains("CRET"), "{said}");
        }
        // What is wrong can still be found.
        let said = Address::parse("https://s3.example.org/a/b").unwrap_err().to_string();
        assert!(said.contains("\"https://s3.example.org/a/b\""), "{said}");
    }

    #[test]
    fn private_networks_are_refused() {
        for private in [
            "http://8.8.8.8/bucket",
            "https://10.0.0.1/bucket",
            "https://192.168.1.1/bucket",
            "https://172.16.0.1/bucket",
            "https://127.0.0.1/bucket",
            "https://localhost/bucket",
            "https://169.254.169.254/bucket",
            "https://0.0.0.0/bucket",
            "https://[::1]/bucket",
            "https://[fd00::1]/bucket",
            "https://[fe80::1]/bucket",
            "https://[::ffff:10.0.0.1]/bucket",
            "https://0x7f000001/bucket",
            "https://2130706433/bucket",
            "https://100.64.0.1/bucket",
            "https://[2002:a00:1::]/bucket",
        ] {
            assert!(Address::parse(private).unwrap().allow(false).is_err(), "{private}");
        }
        assert!(Address::parse("https://8.8.8.8/bucket").unwrap().allow(false).is_ok());
        assert!(Address::parse("http://127.0.0.1:1/bucket").unwrap().allow(true).is_ok());
        assert!(Address::parse("http://10.0.0.1/bucket").unwrap().allow(true).is_err());
        assert!(Address::parse("https://8.8.8.8/bucket").unwrap().allow(true).is_err());
    }
}
