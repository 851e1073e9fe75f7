//! A wire of some length: what is sent into it comes out so much later, in its order.
//!
//! Threads that sleep, because they wake within a tenth of a millisecond of their time; timers of the
//! runtime tick in whole ones.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// What is read at once.
const PIECE: usize = 16 * 1024;

/// Lets connections through to `target`, each with a wire of its own; returns where. It stays until the
/// process ends.
pub(super) fn start(target: SocketAddr, one_way: Duration) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            // Nobody behind it: the connection closes at once.
            let Ok(far) = TcpStream::connect(target) else { continue };
            let ends = near.try_clone().and_then(|near| Ok((near, far.try_clone()?)));
            let Ok((near_again, far_again)) = ends else { continue };
            carry(near, far, one_way);
            carry(far_again, near_again, one_way);
        }
    });
    Ok(address)
}

/// Carries one direction of a connection until it ends.
fn carry(mut from: TcpStream, mut to: TcpStream, one_way: Duration) {
    // It makes things slower only, and the first write tells of a connection that is gone.
    drop(to.set_nodelay(true));
    let (send, receive) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while let Ok(len @ 1..) = from.read(&mut piece) {
            if send.send((Instant::now() + one_way, piece[..len].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receive {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        // The other end may have closed it first.
        drop(to.shutdown(Shutdown::Both));
    });
}
