//! Which chain and which nodes: the names of public networks, their addresses, and the first blocks that they are held
//! to.

use record::{Hash, Report};

/// Which chain and subnet.
#[derive(clap::Args, Clone, Debug)]
pub struct ChainArgs {
    /// `finney`, `test`, `local`, or ws:// and wss:// addresses of nodes of one chain, with commas between
    #[arg(long, env = "BZ_NETWORK", value_name = "NET", default_value = "finney", value_delimiter = ',')]
    pub network: Vec<String>,
    /// Number of the subnet
    #[arg(long, env = "BZ_NETUID", value_name = "N")]
    pub netuid: u16,
    /// Which of the subnet's incentive mechanisms, where it has several
    #[arg(long, env = "BZ_MECHANISM", value_name = "M", default_value_t = 0)]
    pub mechanism: u8,
}

/// The public networks whose first block is known. A node under such a name that has another one is of another chain,
/// or lies, and nothing is read from it and nothing signed for it.
/// Source: the genesis registry of Polkadot.js for `finney`; `chain_getBlockHash(0)` of the public nodes for both.
const PINNED: [(&str, Hash); 2] = [
    ("finney", Hash(hex_32(b"2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03"))),
    ("test", Hash(hex_32(b"8f9cf856bf558a14440e75569c9e58594757048d7b3a84b5d25f6bd978263105"))),
];

/// Hexadecimal digits of a constant as bytes.
const fn hex_32(digits: &[u8; 64]) -> [u8; 32] {
    const fn nibble(digit: u8) -> u8 {
        if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 }
    }
    let mut bytes = [0; 32];
    let mut at = 0;
    while at < 32 {
        bytes[at] = nibble(digits[2 * at]) << 4 | nibble(digits[2 * at + 1]);
        at += 1;
    }
    bytes
}

impl ChainArgs {
    /// The addresses of the nodes.
    ///
    /// # Errors
    /// Exit code 2 when one is no known name and no address.
    pub fn urls(&self) -> Result<Vec<String>, Report> {
        let mut urls = Vec::new();
        for network in &self.network {
            match network.trim() {
                "finney" => urls.extend([
                    "wss://entrypoint-finney.opentensor.ai:443".into(),
                    "wss://lite.chain.opentensor.ai:443".into(),
                ]),
                "test" => urls.push("wss://test.finney.opentensor.ai:443".into()),
                "local" => urls.push("ws://127.0.0.1:9944".into()),
                url if url.starts_with("ws://") || url.starts_with("wss://") => urls.push(url.into()),
                other => {
                    return Err(Report::usage(format!("--network {other}: not a network"))
                        .hint("finney, test, local, or a ws:// or wss:// address; several with commas between"));
                }
            }
        }
        Ok(urls)
    }

    /// The name and the first block of the public network that is asked for, if one is.
    ///
    /// # Errors
    /// Exit code 2 when two of them are.
    pub fn pinned(&self) -> Result<Option<(&'static str, Hash)>, Report> {
        let named = |name: &str| self.network.iter().any(|network| network.trim() == name);
        let mut found = PINNED.into_iter().filter(|(name, _)| named(name));
        match (found.next(), found.next()) {
            (Some((one, _)), Some((other, _))) => {
                Err(Report::usage(format!("--network {one},{other}: these are two chains"))
                    .hint("the nodes of one --network are of one chain"))
            }
            (pinned, _) => Ok(pinned),
        }
    }

    /// What these nodes are called among the facts on disk: a hash, since addresses may hold a provider's key. Their
    /// order does not matter.
    ///
    /// # Errors
    /// As [`ChainArgs::urls`].
    pub(crate) fn digest(&self) -> Result<Hash, Report> {
        let mut urls = self.urls()?;
        urls.sort();
        Ok(Hash::derive("boltzmann nodes v1", urls.join("\n").as_bytes()))
    }
}

/// Whether a node is on this machine.
pub(crate) fn on_loopback(url: &str) -> bool {
    let host = host_of(url).1;
    ["127.0.0.1:", "localhost:", "[::1]:"].iter().any(|local| host.starts_with(local))
}

/// Scheme, and host with port.
fn host_of(url: &str) -> (&str, &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    (scheme, authority.rsplit('@').next().unwrap_or_default())
}

/// An address as it may be shown: a provider's key stands in the rest of it.
pub(crate) fn shown(url: &str) -> String {
    let (scheme, host) = host_of(url);
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(networks: &[&str]) -> ChainArgs {
        let network = networks.iter().map(ToString::to_string).collect();
        ChainArgs { network, netuid: 1, mechanism: 0 }
    }

    #[test]
    fn public_networks_are_held_to_their_first_block() {
        let (name, genesis) = of(&["finney"]).pinned().unwrap().unwrap();
        assert_eq!(name, "finney");
        assert_eq!(genesis.to_string(), "2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03");
        let (name, genesis) = of(&["wss://node.example.org", " test "]).pinned().unwrap().unwrap();
        assert_eq!(name, "test");
        assert_eq!(genesis.to_string(), "8f9cf856bf558a14440e75569c9e58594757048d7b3a84b5d25f6bd978263105");
        assert_eq!(of(&["local"]).pinned().unwrap(), None);
        assert_eq!(of(&["finney", "test"]).pinned().unwrap_err().code, record::Code::Usage);
    }

    #[test]
    fn a_set_of_nodes_has_one_name_that_tells_no_key() {
        let (one, other) = ("wss://a.example.org/key-of-a", "wss://b.example.org");
        let digest = |networks: &[&str]| of(networks).digest().unwrap();
        assert_eq!(digest(&[one, other]), digest(&[other, one]));
        assert_ne!(digest(&[one]), digest(&[other]));
        assert_ne!(digest(&[one]), digest(&["wss://a.example.org/another"]));
        assert_eq!(shown("wss://user:secret@a.example.org:443/key?x=1"), "wss://a.example.org:443");
    }
}
