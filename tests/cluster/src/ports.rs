//! Free ports of the loopback interface.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result};

/// A port that a server can listen on, and that nobody else is given meanwhile.
///
/// A connection that the server's side closed first leaves the port in TIME_WAIT: for a minute the kernel gives it to
/// nobody who asks for just any port, while a server that names it (with SO_REUSEADDR, as Go, Rust and all servers
/// do) gets it.
pub(crate) fn free() -> Result<u16> {
    let reserve = || -> std::io::Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let client = TcpStream::connect(address)?;
        let (server, _) = listener.accept()?;
        drop(server);
        drop(client);
        Ok(address.port())
    };
    reserve().context("finding a free port of the loopback interface")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_each_given_once_and_can_be_listened_on() {
        let ports: Vec<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 50);
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
