//! Free ports of the loopback interface.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result};

/// A port that a server can listen on, and that the kernel gives to no other process meanwhile.
///
/// A connection that the server's side closed first leaves the port in TIME_WAIT. For a minute the kernel
/// does not choose it for a process that asks for any free port. A server that asks for exactly this port
/// with SO_REUSEADDR, as Go and Rust servers do, gets it.
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
    fn each_port_is_returned_once_and_a_server_can_listen_on_it() {
        let ports: Vec<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 50);
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
