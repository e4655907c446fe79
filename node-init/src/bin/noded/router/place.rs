//! Where the sockets are bound, and whoever comes is let in.

use crate::report::chain;
use rustix::fs::{Gid, Mode, chmod, chown};
use std::{fs, io, path::Path, time::Duration};
use tokio::net::{UnixListener, UnixStream};

/// The router's group in the image.
const GROUP: &str = "router";

/// Binds a socket that root and the router's group may use. What an earlier daemon left is replaced.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    chmod(path, Mode::from_raw_mode(0o660))?;
    // Started by hand, there may be no such group, or no right to give files away: then only our own user connects.
    if let Ok(Some(group)) = nix::unistd::Group::from_name(GROUP)
        && rustix::process::geteuid().is_root()
    {
        chown(path, None, Some(Gid::from_raw(group.gid.as_raw())))?;
    }
    Ok(listener)
}

/// Serves everybody who connects, each in a task of their own, for ever.
pub fn serve_each<F>(listener: UnixListener, serve: impl Fn(UnixStream) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
                Err(error) => {
                    // Out of descriptors or memory: another look at once would fail as well.
                    tracing::error!(error = %chain(&error), "Cannot accept a connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
}
