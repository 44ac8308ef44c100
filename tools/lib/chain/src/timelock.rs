//! Timelocked weights: encrypted to a round of a drand beacon, so that the chain itself opens them when that round's
//! signature is published, and nobody before.
//!
//! Source: drand's timelock encryption (Boneh-Franklin, signatures in G1, public key in G2, AES-GCM), as Subtensor's
//! `reveal_crv3_commits` opens it. The crate `timelock` does the work; its form differs from the chain's by two
//! lengths.

use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
use record::{Context, Hotkey, Report};
use sha2::{Digest, Sha256};
use std::panic::{AssertUnwindSafe, catch_unwind};
use subxt::ext::codec::{Decode, Encode};
use timelock::{
    block_ciphers::AESGCMBlockCipherProvider,
    engines::{EngineBLS, drand::TinyBLS381},
    ibe::fullident::Identity,
    tlock::{TLECiphertext, tld, tle},
};

type PublicKey = <TinyBLS381 as EngineBLS>::PublicKeyGroup;
type Signature = <TinyBLS381 as EngineBLS>::SignatureGroup;
type Secret = <TinyBLS381 as EngineBLS>::Scalar;

/// The chain takes no longer commit.
const LONGEST: usize = 5000;
/// Where the chain's form has the lengths of the two masked halves of the key: behind a point of G2, and one half
/// later.
const FIRST: usize = 96;
const HALF: usize = 32;
const LENGTH: [u8; 8] = (HALF as u64).to_le_bytes();

/// A source of signatures, one a round, as the chain keeps it in `Drand.BeaconConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Its public key, a compressed point of G2.
    pub public: Vec<u8>,
    /// Seconds between two rounds.
    pub period: u32,
    /// When round 1 was published, seconds since 1970.
    pub genesis: u32,
}

impl Beacon {
    /// The last round that is published at a time, seconds since 1970, reckoned as `bittensor-drand` does: one less
    /// than drand's own count, which is on the safe side by one period.
    pub fn round_at(&self, seconds: f64) -> u64 {
        ((seconds - f64::from(self.genesis)) / f64::from(self.period.max(1))).floor().max(1.0) as u64
    }

    /// When a round is published, seconds since 1970.
    pub fn time_of(&self, round: u64) -> u64 {
        u64::from(self.genesis).saturating_add(round.saturating_sub(1).saturating_mul(self.period.into()))
    }

    /// Encrypt to a round.
    ///
    /// # Errors
    /// Exit code 78 when the chain's public key is none, 1 when what is encrypted is too long for the chain.
    pub fn seal(&self, round: u64, content: &[u8]) -> Result<Vec<u8>, Report> {
        let broken = |what: &str| Report::config(format!("the beacon's public key, as the chain has it, {what}"));
        let public = PublicKey::deserialize_compressed(&self.public[..]).map_err(|_| broken("is no point of G2"))?;
        let mut key = [0u8; HALF];
        getrandom::fill(&mut key).again("cannot draw a key")?;
        let sealed =
            tle::<TinyBLS381, AESGCMBlockCipherProvider, _>(public, key, content, identity(round), rand_core::OsRng)
                .map_err(|_| broken("does not encrypt"))?;
        let mut bytes = Vec::new();
        sealed.serialize_compressed(&mut bytes).map_err(|_| broken("does not encrypt"))?;
        let (point, rest) = bytes.split_at_checked(FIRST).ok_or_else(|| broken("is too short"))?;
        let (half, rest) = rest.split_at_checked(HALF).ok_or_else(|| broken("is too short"))?;
        let chain = [point, &LENGTH, half, &LENGTH, rest].concat();
        if chain.len() > LONGEST {
            return Err(Report::no(format!("sealed weights of {} bytes, the chain takes {LONGEST}", chain.len())));
        }
        Ok(chain)
    }
}

/// What a round signs, and what is encrypted to.
fn identity(round: u64) -> Identity {
    Identity::new(b"", &Sha256::digest(round.to_be_bytes()))
}

/// Decrypt what was sealed to the round of this signature; `None` where it was not, whatever the bytes are.
pub fn open(sealed: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
    let at = |place: usize, length: usize| sealed.get(place..place.checked_add(length)?);
    let second = FIRST + LENGTH.len() + HALF;
    if sealed.len() > LONGEST || at(FIRST, LENGTH.len())? != LENGTH || at(second, LENGTH.len())? != LENGTH {
        return None;
    }
    let rest = sealed.get(second + LENGTH.len()..)?;
    // The crate makes room for a length before it looks whether so much is there.
    let (body, suite) = counted(rest.get(HALF..)?)?;
    counted(suite)?;
    counted(counted(body)?.1)?;
    let halves = [at(0, FIRST)?, at(FIRST + LENGTH.len(), HALF)?, rest].concat();
    let signature = Signature::deserialize_compressed(signature).ok()?;
    // The bytes are anybody's, and the crate asserts.
    catch_unwind(AssertUnwindSafe(|| {
        let sealed = TLECiphertext::<TinyBLS381>::deserialize_compressed(&halves[..]).ok()?;
        tld::<TinyBLS381, AESGCMBlockCipherProvider>(sealed, signature).ok()
    }))
    .ok()
    .flatten()
}

/// Bytes behind their length, as the crate writes them, and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// What a validator seals. Source: Subtensor's `WeightsTlockPayload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Whose weights: nobody else can send them in as its own.
    pub hotkey: Hotkey,
    /// Whom.
    pub uids: Vec<u16>,
    /// How much.
    pub values: Vec<u16>,
    /// The version key.
    pub version_key: u64,
}

impl Payload {
    /// Its SCALE form.
    pub fn bytes(&self) -> Vec<u8> {
        (self.hotkey.0.to_vec(), &self.uids, &self.values, self.version_key).encode()
    }

    /// Read the SCALE form; `None` where it is none.
    pub fn read(mut bytes: &[u8]) -> Option<Self> {
        let (hotkey, uids, values, version_key) = <(Vec<u8>, Vec<u16>, Vec<u16>, u64)>::decode(&mut bytes).ok()?;
        Some(Payload { hotkey: Hotkey(hotkey.try_into().ok()?), uids, values, version_key })
    }
}

/// A beacon of one's own, for a chain on one machine. Whoever knows its secret opens everything that was sealed to it.
pub struct OwnBeacon(Secret);

impl OwnBeacon {
    /// The beacon of a secret.
    pub fn new(secret: &[u8; 32]) -> Self {
        use ark_ff::PrimeField;
        OwnBeacon(Secret::from_le_bytes_mod_order(&Sha256::digest(secret)))
    }

    /// Its public key.
    pub fn public(&self) -> Vec<u8> {
        use ark_ec::PrimeGroup;
        compressed(&(PublicKey::generator() * self.0))
    }

    /// A round's signature.
    pub fn sign(&self, round: u64) -> Vec<u8> {
        compressed(&identity(round).extract::<TinyBLS381>(self.0).0)
    }
}

fn compressed(point: &impl CanonicalSerialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Into memory: it cannot fail.
    let _ = point.serialize_compressed(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> (OwnBeacon, Beacon) {
        let own = OwnBeacon::new(&[7; 32]);
        let beacon = Beacon { public: own.public(), period: 3, genesis: 1_692_803_367 };
        (own, beacon)
    }

    #[test]
    fn what_is_sealed_opens_with_its_round_only() {
        let (own, beacon) = own();
        let payload = Payload { hotkey: Hotkey([9; 32]), uids: vec![1, 2], values: vec![65535, 3], version_key: 9 };
        let sealed = beacon.seal(1000, &payload.bytes()).unwrap();
        assert_eq!(Payload::read(&open(&sealed, &own.sign(1000)).unwrap()).unwrap(), payload);
        assert_eq!(open(&sealed, &own.sign(1001)), None);
        // Behind it only the cipher's name, which nothing depends on.
        let name = sealed.len() - "AES_GCM_".len();
        for place in 0..name {
            let mut broken = sealed.clone();
            broken[place] ^= 1 << (place % 8);
            assert_eq!(open(&broken, &own.sign(1000)), None, "byte {place}");
        }
        for length in [0, 1, 95, 96, 104, 136, 144, 145, sealed.len() - 1] {
            assert_eq!(open(&sealed[..length], &own.sign(1000)), None, "{length} bytes");
        }
        assert_eq!(open(&sealed, &[0; 48]), None);
        assert_eq!(Payload::read(&[255; 40]), None);
        assert!(beacon.seal(1000, &vec![0; 5000]).is_err());
        assert!(Beacon { public: vec![1; 96], ..beacon }.seal(1000, b"x").is_err());
    }

    #[test]
    fn rounds_are_those_of_the_beacon() {
        let (_, beacon) = own();
        // drand's quicknet: round 1 at its genesis, one every 3 s.
        assert_eq!((beacon.time_of(1), beacon.time_of(1001)), (1_692_803_367, 1_692_806_367));
        assert_eq!(beacon.round_at(1_692_806_367.0), 1000);
        assert_eq!(beacon.round_at(0.0), 1);
        assert!(beacon.time_of(beacon.round_at(1_700_000_000.0)) <= 1_700_000_000);
    }

    /// drand's quicknet, as https://api.drand.sh/52db9ba7…/info tells it, and two of its rounds, as /public/1000 does.
    const QUICKNET: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c\
                            8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb\
                            5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a";
    const ROUND_1000: &str = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125\
                              e342b73a8dd2bacbe47e4b6b63ed5e39";
    const ROUND_1001: &str = "b33bf3667cbd5a82de3a24b4e0e9fe5513cc1a0e840368c6e31f5fcfa79bea03\
                              f73896b25883abf2853d10337fb8fa41";
    /// SHA-256 of the signature of round 1000, as drand publishes it.
    const RANDOMNESS_1000: &str = "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd";
    /// `boltzmann, window 7`, encrypted to round 1000 by PyPI's bittensor-drand.
    const FOREIGN: &str = "add680fc889276a544c31b1614fd3f00b2f9822421cd7dd76b0486043bdeb597\
                           e24eb157f99de942bd422f32cedff9540dfa6210016a0c7adfab321b3fa6463b\
                           0c20dc226851648647289bc6c2e34bf632f5e85428f53558bb6cc1c5dd00cc64\
                           2000000000000000420ff727cd4ddeebe36d0c246bde77591cba36c178fd384d\
                           007d8a675d8fb7df2000000000000000991b3f14891797df60e2ff25fc726fb5\
                           32bbe33bba9f019c5a7f2c91403f2d8b3f000000000000002300000000000000\
                           3f49457e4682cd2e4fc63c694bb66e2c8c77ea9b7eacd0db50cbe55efc14fb3d\
                           3c804c0c000000000000009366711dc123e615808fe249080000000000000041\
                           45535f47434d5f";

    #[test]
    fn the_real_beacon_opens_what_is_sealed_to_it() {
        let beacon = Beacon { public: hex::decode(QUICKNET).unwrap(), period: 3, genesis: 1_692_803_367 };
        let (first, second) = (hex::decode(ROUND_1000).unwrap(), hex::decode(ROUND_1001).unwrap());
        assert_eq!(hex::encode(Sha256::digest(&first)), RANDOMNESS_1000);
        assert_eq!(beacon.time_of(1000), 1_692_806_364, "when drand published it");
        for (round, own, other) in [(1000, &first, &second), (1001, &second, &first)] {
            let sealed = beacon.seal(round, b"window 7").unwrap();
            assert_eq!(open(&sealed, own).as_deref(), Some(&b"window 7"[..]));
            assert_eq!(open(&sealed, other), None);
        }
        let foreign = hex::decode(FOREIGN).unwrap();
        assert_eq!(open(&foreign, &first).as_deref(), Some(&b"boltzmann, window 7"[..]));
        assert_eq!(open(&foreign, &second), None);
    }
}
