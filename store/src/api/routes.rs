//! Every path of the admin API: what the OpenAPI document says and the tests try.

/// One path and method.
pub struct Route {
    /// Lower-case, as OpenAPI writes it.
    pub method: &'static str,
    /// Under `model::api::BASE`.
    pub path: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Query parameters.
    pub query: &'static [&'static str],
    /// Schema of the body.
    pub body: Body,
    /// Status of success.
    pub status: u16,
    /// Schema of the answer.
    pub answer: Body,
}

/// What a request or an answer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    None,
    /// Bytes.
    Bytes,
    /// One value of this schema.
    One(&'static str),
    /// A list of them.
    Many(&'static str),
    /// An object of texts.
    Map,
    /// Any JSON.
    Any,
}

use Body::{Any, Bytes, Many, Map, None, One};

const F: &[&str] = &["filter"];

const fn route(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    body: Body,
    status: u16,
    answer: Body,
) -> Route {
    Route { method, path, summary, query, body, status, answer }
}

/// The list. `{objects}` stands for each of [`OBJECTS`].
#[rustfmt::skip]
pub const ALL: &[Route] = &[
    route("get", "/openapi.json", "This document; needs no token", &[], None, 200, Any),
    route("get", "/cluster", "Version, cluster CA and ports", &[], None, 200, One("Cluster")),
    route("get", "/config", "Configuration keys with stored or default values", &["all"], None, 200, Many("ConfigEntry")),
    route("put", "/config", "Sets keys, all or none", &[], Map, 200, One("Done")),
    route("post", "/config/del", "Deletes stored values", &[], One("Keys"), 200, One("Done")),
    route("put", "/config/ssl", "Sets the routers' certificate", &[], One("Ssl"), 204, None),
    route("get", "/hosts", "Nodes", F, None, 200, Many("HostRow")),
    route("post", "/hosts", "Registers a node", &[], One("NewHost"), 201, One("Added")),
    route("delete", "/hosts", "Deletes nodes that hold no VM", F, None, 200, One("Done")),
    route("post", "/hosts/block", "Keeps new guests and logins away", F, None, 200, One("Done")),
    route("post", "/hosts/unblock", "Lets them in again", F, None, 200, One("Done")),
    route("post", "/hosts/approve", "Lets waiting nodes join", F, None, 200, One("Done")),
    route("post", "/hosts/recovery", "Recovery keys of nodes' encrypted STATE; each key shown is an event", F, None, 200, Many("HostRecovery")),
    route("post", "/hosts/update", "Moves nodes to another version of their image", F, One("UpdateHosts"), 200, One("Done")),
    route("get", "/images", "Versions of the node's image", &[], None, 200, Many("NodeImageRow")),
    route("post", "/images", "Adds an update set that was uploaded", &[], One("NewNodeImage"), 201, One("NodeImageRow")),
    route("delete", "/images/{id}", "Deletes a version that no node is to run", &[], None, 204, None),
    route("get", "/hosts/counters", "Counters of routers", F, None, 200, Many("HostCounters")),
    route("get", "/hosts/boots", "Boots of nodes and how they ended, newest first", F, None, 200, Many("BootRow")),
    route("get", "/hosts/boots/{id}", "A boot of a node, with its last words", &[], None, 200, One("BootLog")),
    route("get", "/hosts/{id}/timeline", "A node's boot timeline", &[], None, 200, Any),
    route("get", "/osfs", "OS flavours", F, None, 200, Many("OsfRow")),
    route("post", "/osfs", "Adds an OS flavour", &[], One("NewOsf"), 201, One("Added")),
    route("delete", "/osfs", "Deletes OS flavours without VMs and images", F, None, 200, One("Done")),
    route("post", "/uploads", "Announces an upload", &[], One("NewUpload"), 201, One("Upload")),
    route("get", "/uploads/{id}", "How far an upload is", &[], None, 200, One("Upload")),
    route("put", "/uploads/{id}", "Sends bytes from offset on", &["offset"], Bytes, 200, One("Upload")),
    route("delete", "/uploads/{id}", "Drops an upload", &[], None, 204, None),
    route("post", "/dis", "Makes a disk image of an upload", &[], One("NewDi"), 202, One("Import")),
    route("get", "/imports/{id}", "How an import stands", &[], None, 200, One("Import")),
    route("get", "/dis", "Disk images", F, None, 200, Many("DiRow")),
    route("delete", "/dis", "Deletes disk images that no VM runs", F, None, 200, One("Done")),
    route("post", "/dis/{id}/tag", "Moves a tag to a disk image", &[], One("Tag"), 200, One("Done")),
    route("post", "/dis/{id}/untag", "Takes a tag from a disk image", &[], One("Tag"), 200, One("Done")),
    route("get", "/users", "Users", F, None, 200, Many("UserRow")),
    route("post", "/users", "Adds a user", &[], One("NewUser"), 201, One("Added")),
    route("post", "/users/passwd", "Changes a password", &[], One("NewUser"), 200, One("Done")),
    route("post", "/users/totp", "Gives a user one-time codes; the secret shows this once", &[], One("Login"), 200, One("Totp")),
    route("post", "/users/totp/del", "Takes one-time codes away", &[], One("Login"), 200, One("Done")),
    route("delete", "/users", "Deletes users without VMs", F, None, 200, One("Done")),
    route("get", "/vms", "Virtual machines", F, None, 200, Many("VmRow")),
    route("post", "/vms", "Adds virtual machines", &[], One("NewVm"), 201, One("Added")),
    route("patch", "/vms", "Changes virtual machines", F, One("EditVm"), 200, One("Done")),
    route("delete", "/vms", "Deletes stopped virtual machines", F, None, 200, One("Done")),
    route("post", "/vms/start", "Starts", F, None, 200, One("Done")),
    route("post", "/vms/stop", "Stops", F, None, 200, One("Done")),
    route("post", "/vms/block", "Sets the maintenance flag and ends sessions", F, One("BlockVm"), 200, One("Done")),
    route("post", "/vms/unblock", "Clears the maintenance flag", F, None, 200, One("Done")),
    route("post", "/vms/disconnect_user", "Ends sessions", F, None, 200, One("Done")),
    route("post", "/vms/release", "Takes VMs from a node that will never run them again", F, None, 200, One("Done")),
    route("get", "/vms/counters", "Counters of starts", F, None, 200, Many("VmCounters")),
    route("get", "/{objects}/properties", "Properties", F, None, 200, Many("PropertyRow")),
    route("put", "/{objects}/properties", "Sets properties", F, Map, 200, One("Done")),
    route("post", "/{objects}/properties/del", "Deletes properties", F, One("Keys"), 200, One("Done")),
    route("post", "/tokens", "Makes a token", &[], One("NewToken"), 201, One("Token")),
    route("get", "/events", "What happened, newest first", &["limit"], None, 200, Many("EventRow")),
];

/// What has properties.
pub const OBJECTS: &[&str] = &["hosts", "osfs", "dis", "users", "vms"];
