//! Checks before a start whether it can listen where it was asked to, so that a mistake makes
//! nothing: no directory, no pool, no archive.

use std::net::TcpListener;

use super::{ApplianceConfig, Backing, ServeError};
use crate::rpc::check_socket;

/// Binds each address and releases it, and checks the socket of the command plane.
///
/// The socket is checked only if there is no pool yet. One that exists is locked before its socket
/// is bound, and the lock says better who else uses the pool.
///
/// # Errors
/// The first address that cannot be listened on.
pub(super) fn check(config: &ApplianceConfig) -> Result<(), ServeError> {
    for &address in &config.listen {
        TcpListener::bind(address).map_err(|source| ServeError::Address { address, source })?;
    }
    let is_there = match &config.backing {
        Backing::File { path, .. } => path.exists(),
        Backing::Memory { .. } => false,
    };
    if let Some(socket) = config.rpc_socket.as_ref().filter(|_| !is_there) {
        check_socket(socket)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;

    use super::*;
    use crate::bdev::Engine;
    use crate::serve::Appliance;

    fn config(directory: &Path, socket: &Path) -> ApplianceConfig {
        let path = directory.join("pool.varve");
        let backing = Backing::File { path, create_bytes: 16 << 20, engine: Engine::Threads };
        ApplianceConfig {
            directory: Some(directory.to_owned()),
            rpc_socket: Some(socket.to_owned()),
            first_volume_bytes: None,
            ..ApplianceConfig::new(backing, SocketAddr::from(([127, 0, 0, 1], 0)))
        }
    }

    fn refusal(config: ApplianceConfig) -> ServeError {
        Appliance::start(config).err().expect("it does not start")
    }

    #[test]
    fn an_address_or_a_socket_that_cannot_be_used_makes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, socket) = (folder.path().join("data"), folder.path().join("rpc.sock"));
        std::fs::write(&socket, "no socket").expect("written");
        assert!(matches!(refusal(config(&data, &socket)), ServeError::Rpc(_)));
        assert!(!data.exists());
        std::fs::remove_file(&socket).expect("removed");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let listen = vec![taken.local_addr().expect("its address")];
        let error = refusal(ApplianceConfig { listen, ..config(&data, &socket) });
        assert!(matches!(error, ServeError::Address { .. }), "{error}");
        assert!(!data.exists() && !socket.exists());
        Appliance::start(config(&data, &socket)).expect("both are free").stop().expect("it stops");
    }

    #[test]
    fn the_socket_is_bound_before_a_pool_is_made_in_a_blank_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, socket) = (folder.path().join("pool.varve"), folder.path().join("rpc.sock"));
        let blank = vec![0; 16 << 20];
        std::fs::write(&file, &blank).expect("written");
        std::fs::write(&socket, "no socket").expect("written");
        assert!(matches!(refusal(config(folder.path(), &socket)), ServeError::Rpc(_)));
        assert!(std::fs::read(&file).expect("readable") == blank, "it is still blank");
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .expect("readable")
            .flatten()
            .map(|file| file.file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["pool.varve", "rpc.sock", "rpc.sock.lock"]);
    }
}
