//! Subnets in, epochs out, a line each: what scripts/peer_yuma.py holds against a second implementation.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

fn main() {
    for line in std::io::stdin().lines() {
        let subnet: bz_localnet::yuma::Subnet = serde_json::from_str(&line.unwrap()).unwrap();
        println!("{}", serde_json::to_string(&subnet.epoch()).unwrap());
    }
}
