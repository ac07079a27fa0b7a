//! Sockets whose network device the kernel polls instead of waiting for interrupts.
//!
//! Useful if the network card has a queue for the reactor's core. Over loopback there is no device,
//! and it changes nothing.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Makes the kernel poll a socket's device for up to `span_us` in a receive that finds nothing, and
/// keep the device's interrupts off meanwhile.
///
/// # Errors
/// The kernel's refusal, which names the option: a value above the system's default
/// (`net.core.busy_read`) requires `CAP_NET_ADMIN`.
pub fn set_busy_poll(socket: &TcpStream, span_us: u16) -> io::Result<()> {
    set(socket, libc::SO_BUSY_POLL, "SO_BUSY_POLL", span_us.into())?;
    set(socket, libc::SO_PREFER_BUSY_POLL, "SO_PREFER_BUSY_POLL", 1)
}

fn set(socket: &TcpStream, option: libc::c_int, name: &str, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option's value is an int that lives until the call returns, and its length is
    // passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(io::Error::new(error.kind(), format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::io::Errno;

    use super::*;

    /// A granted option can be read back. A refusal names the option.
    #[test]
    fn it_is_set_or_refused_by_name() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let socket = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
        let mut found: libc::c_int = -1;
        let mut len_bytes = size_of_val(&found) as libc::socklen_t;
        match set_busy_poll(&socket, 50) {
            Ok(()) => {
                // SAFETY: the value and its length live until the call returns, and the length is
                // the value's.
                let result = unsafe {
                    libc::getsockopt(
                        socket.as_raw_fd(),
                        libc::SOL_SOCKET,
                        libc::SO_BUSY_POLL,
                        (&raw mut found).cast(),
                        &raw mut len_bytes,
                    )
                };
                assert_eq!((result, found), (0, 50));
            }
            Err(error) => {
                assert_eq!(error.kind(), io::Error::from(Errno::PERM).kind(), "{error}");
                assert!(error.to_string().starts_with("SO_"), "{error}");
            }
        }
    }
}
