//! A way to a server, whatever is spoken there: it can be closed, and can hold who comes.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

/// What becomes of who comes to a [`Gate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// They come through.
    All,
    /// Nobody listens; who is through already stays.
    NoMore,
    /// They are let in, and get no answer.
    Held,
}

/// Who listens, and for what.
struct Open {
    listener: Option<TcpListener>,
    pass: Pass,
}

/// A way to a server on loopback.
pub struct Gate {
    /// Where it begins.
    pub address: SocketAddr,
    open: Arc<Mutex<Open>>,
}

/// Ports that no outgoing connection of this machine takes while nobody listens there: those begin at 32768.
const PORTS: std::ops::Range<u16> = 12_000..20_000;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Gate {
    /// An open gate before the server of this address, such as `ws://127.0.0.1:20001`.
    pub fn to(server: &str) -> Self {
        let (_, server) = server.split_once("://").unwrap();
        let server = server.split('/').next().unwrap().to_string();
        // Tests that run side by side begin at different places.
        let first = PORTS.start + (std::process::id() % u32::from(PORTS.end - PORTS.start)) as u16;
        let mut free =
            (first..PORTS.end).chain(PORTS.start..first).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let listener = free.find_map(|address| listen(address).ok()).unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(Mutex::new(Open { listener: Some(listener), pass: Pass::All }));
        let gate = Gate { address, open: open.clone() };
        std::thread::spawn(move || {
            let mut held = Vec::new();
            loop {
                let (came, pass) = {
                    let open = open.lock().unwrap();
                    (open.listener.as_ref().and_then(|listener| listener.accept().ok()), open.pass)
                };
                match came {
                    Some((here, _)) if pass == Pass::All => through(here, &server),
                    Some((here, _)) => held.push(here),
                    None => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        gate
    }

    /// From now on.
    pub fn set(&self, pass: Pass) {
        let mut open = self.open.lock().unwrap();
        open.pass = pass;
        if pass == Pass::NoMore {
            open.listener = None;
        } else if open.listener.is_none() {
            open.listener = Some(listen(self.address).unwrap());
        }
    }

    /// The same address of a server by this gate.
    pub fn instead(&self, address: &str) -> String {
        let (scheme, rest) = address.split_once("://").unwrap();
        let path = rest.split_once('/').map(|(_, path)| format!("/{path}")).unwrap_or_default();
        format!("{scheme}://{}{path}", self.address)
    }
}

/// Both ways, until one side has enough; without a server the connection ends.
fn through(here: TcpStream, server: &str) {
    let Ok(there) = TcpStream::connect(server) else { return };
    here.set_nonblocking(false).unwrap();
    let (from, to) = (there.try_clone().unwrap(), here.try_clone().unwrap());
    std::thread::spawn(move || copy(here, there));
    std::thread::spawn(move || copy(from, to));
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
