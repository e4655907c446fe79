//! OS flavours, and the disk images that their machines boot.

use crate::{DiId, Digest, OsfId};
use serde::{Deserialize, Serialize};

messages! {
    /// An OS flavour.
    pub struct OsfRow {
        /// Its id.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub id: OsfId,
        /// Its name.
        pub name: String,
        /// Memory of its machines, MiB.
        pub memory_mib: u32,
        /// Whether its machines get a writable layer.
        pub use_overlay: bool,
        /// Size limit of homes, MiB; none: homes do not persist.
        pub user_storage_mib: Option<u32>,
    }

    /// A new OS flavour.
    pub struct NewOsf: request {
        /// Its name.
        pub name: String,
        /// Memory, MiB; none: `osf.default.memory`.
        #[serde(default)]
        pub memory_mib: Option<u32>,
        /// None: `osf.default.overlay`.
        #[serde(default)]
        pub use_overlay: Option<bool>,
        /// Size limit of homes, MiB; none: homes do not persist.
        #[serde(default)]
        pub user_storage_mib: Option<u32>,
    }

    /// A file about to be uploaded.
    pub struct NewUpload: request {
        /// File name, shown as the DI's path.
        pub name: String,
        /// Its bytes.
        pub bytes: u64,
        /// Its SHA-256, checked when whole.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        pub sha256: Option<Digest>,
    }

    /// An upload. It survives a restart of the store, and is dropped a day after its last byte.
    pub struct Upload {
        /// Its id.
        pub id: String,
        /// File name.
        pub name: String,
        /// Bytes in all.
        pub bytes: u64,
        /// Bytes that have arrived and lie on disk: where to go on.
        pub received: u64,
    }

    /// A disk image to be made of an upload that is whole.
    pub struct NewDi: request {
        /// Id of the upload; it is gone when the import has succeeded.
        pub upload: String,
        /// Name of the OS flavour; either this or `osf_id`.
        #[serde(default)]
        pub osf: Option<String>,
        /// The OS flavour.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
        pub osf_id: Option<OsfId>,
        /// Version; none: today's date and a number, `YYYY-MM-DD-NNN`.
        #[serde(default)]
        pub version: Option<String>,
    }

    /// Conversion of an upload to a disk image.
    pub struct Import {
        /// Its id.
        pub id: String,
        /// How it stands.
        pub state: ImportState,
        /// Bytes of the upload read so far.
        pub done_bytes: u64,
        /// Bytes of the upload.
        pub total_bytes: u64,
        /// The new disk image, once done.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
        pub di: Option<DiId>,
        /// Its version, once done.
        pub version: Option<String>,
        /// Device nodes that were left out.
        pub dropped_devices: u64,
        /// Files, directories and links in it.
        pub entries: u64,
        /// Why it failed.
        pub error: Option<String>,
    }

    /// A disk image.
    pub struct DiRow {
        /// Its id.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub id: DiId,
        /// Its OS flavour.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub osf_id: OsfId,
        /// Its OS flavour's name.
        pub osf: String,
        /// Version.
        pub version: String,
        /// `<id>-<file name>`.
        pub path: String,
        /// Tags, sorted; the version is a fixed one and is not listed.
        pub tags: Vec<String>,
        /// SHA-256 of the squashfs.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub digest: Digest,
        /// Bytes of the squashfs.
        pub bytes: u64,
    }

    /// A tag to set or take away.
    pub struct Tag: request {
        /// The tag.
        pub tag: String,
    }
}

/// How an import stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ImportState {
    /// The upload is being converted.
    Running,
    /// The disk image is published.
    Done,
    /// Nothing was published.
    Failed,
}
