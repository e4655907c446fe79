//! The node's network.

use model::VmId;
use std::net::Ipv4Addr;

/// Why the network cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The network's task is gone: the daemon ends.
    #[error("The network task has ended")]
    Gone,
}

/// Handle to the network task.
#[derive(Clone, Debug)]
pub struct Network;

impl Network {
    /// Lets a guest's port carry traffic of this MAC and IP and no other, and gives the guest its DHCP
    /// lease. Call it before the port exists; asking again with the same values is harmless. The port
    /// is set isolated by this task when it appears on the bridge.
    pub async fn admit(&self, vm: VmId, port: &str, mac: &str, ip: Ipv4Addr) -> Result<(), NetworkError> {
        let _ = (vm, port, mac, ip);
        Err(NetworkError::Gone)
    }

    /// Takes back what [`Self::admit`] gave. Harmless for a guest that has nothing.
    pub async fn expel(&self, vm: VmId) -> Result<(), NetworkError> {
        let _ = vm;
        Err(NetworkError::Gone)
    }
}
