//! Guest storage: base images, writable layers, homes.
