//! A deliberately simple proxy that passes bytes on unchecked. The table has to show that it is broken.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use super::client::read_all;
use crate::support::raw::patient;

/// Starts the proxy in front of `worker`; its clients have to shut down their writing side at the end.
pub(super) fn start(worker: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The thread ends with the process of the test.
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let request = read_all(patient(client.try_clone().unwrap()));
            let mut leg = TcpStream::connect(worker).unwrap();
            let mut writer = leg.try_clone().unwrap();
            let writing = std::thread::spawn(move || {
                let _ = writer.write_all(&request);
                let _ = writer.shutdown(Shutdown::Write);
            });
            leg = patient(leg);
            let _ = client.write_all(&read_all(leg));
            writing.join().unwrap();
        }
    });
    address
}
