//! The admin API over HTTPS.

use super::{World, http::Admin};
use crate::api::routes;
use http::{Method, StatusCode};
use model::{
    api::{Added, Cluster, ConfigEntry, DiRow, Done, EventRow, OsfRow, PropertyRow, Token, UserRow, VmRow},
    state::VmState,
};
use serde_json::{Value, json};

#[tokio::test]
async fn objects_are_added_listed_changed_and_deleted() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    let user: Added = admin.post("/users", &json!({ "login": "Ann", "password": "pw" })).await;
    let _: Added = admin.post("/osfs", &json!({ "name": "desk", "memory_mib": 300 })).await;
    let vms: Added = admin.post("/vms", &json!({ "name": "pool", "user_id": user.id, "osf": "desk", "bulk": 3 })).await;
    assert_eq!((vms.id, vms.count), (1, 3));
    assert_eq!(admin.get::<Vec<UserRow>>("/users?filter=login=a*").await[0].login, "ann");
    let osfs: Vec<OsfRow> = admin.get("/osfs").await;
    assert_eq!((osfs[0].memory_mib, osfs[0].use_overlay, osfs[0].user_storage_mib), (300, true, None));
    let done: Done = admin.patch("/vms?filter=name=pool-1", &json!({ "name": "one", "di_tag": "v9" })).await;
    assert_eq!(done.done, 1);
    let vm = admin.get::<Vec<VmRow>>("/vms?filter=name=one").await.remove(0);
    assert_eq!((vm.di_tag.as_str(), vm.state, vm.ip.to_string().as_str()), ("v9", VmState::Stopped, "10.3.15.51"));
    let done: Done = admin.patch("/vms", &json!({ "name": "same" })).await;
    assert_eq!((done.matched, done.done), (3, 1), "the others keep their names");
    assert!(done.failed.iter().all(|f| f.reason == "There is a virtual machine same already"));
    let done: Done = admin.post("/vms/start", &json!(null)).await;
    assert_eq!(done.failed[0].reason, "its OS flavour has no disk image tagged default");
    let done: Done = admin.delete("/users").await;
    assert_eq!(done.failed[0].reason, "it owns 3 virtual machines: delete them first");
    assert_eq!(admin.delete::<Done>("/vms").await.done, 3);
    assert_eq!(admin.delete::<Done>("/users").await.done, 1);
    assert_eq!(admin.get::<Vec<DiRow>>("/dis").await, []);
    assert_eq!(admin.delete::<Done>("/vms").await.matched, 0);
    let events: Vec<EventRow> = admin.get("/events?limit=1").await;
    assert_eq!((events[0].actor.as_str(), events[0].what.as_str()), ("first start", "user.del"));
}

#[tokio::test]
async fn configuration_is_checked_against_its_keys_all_or_none() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    let body = json!({ "site.name": "x", "l7r.prot": "443" }).to_string();
    let (status, error) = admin.refused(Method::PUT, "/config", &body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(error, "Unknown configuration key 'l7r.prot': did you mean 'l7r.port'?");
    let get = async |key: &str| {
        let all: Vec<ConfigEntry> = admin.get("/config?all=1").await;
        all.into_iter().find(|entry| entry.key == key).map(|entry| (entry.value, entry.set))
    };
    assert_eq!(get("site.name").await, None);
    let _: Done = admin.put("/config", &json!({ "site.name": "x", "l7r.port": "443" })).await;
    assert_eq!(get("l7r.port").await, Some(("443".to_owned(), true)));
    assert_eq!(admin.post::<Done>("/config/del", &json!({ "keys": [] })).await.done, 2);
    assert_eq!(get("l7r.port").await, Some(("8443".to_owned(), false)));
    let shown: Vec<ConfigEntry> = admin.get("/config").await;
    assert!(shown.iter().all(|entry| !entry.key.starts_with("internal.")));
}

#[tokio::test]
async fn properties_are_set_on_what_matches() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    for login in ["ann", "bob"] {
        let _: Added = admin.post("/users", &json!({ "login": login, "password": "pw" })).await;
    }
    let done: Done = admin.put("/users/properties?filter=login=a*", &json!({ "floor": "2", "team": "x" })).await;
    assert_eq!(done.done, 1);
    let rows: Vec<PropertyRow> = admin.get("/users/properties?filter=property.floor=2").await;
    assert_eq!(
        rows.iter().map(|r| (r.name.as_str(), r.key.as_str())).collect::<Vec<_>>(),
        [("ann", "floor"), ("ann", "team")]
    );
    assert_eq!(admin.post::<Done>("/users/properties/del", &json!({ "keys": ["team"] })).await.done, 1);
    assert_eq!(admin.get::<Vec<PropertyRow>>("/users/properties").await.len(), 1);
}

#[tokio::test]
async fn bad_input_is_told_with_what_was_expected() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    let check = async |method: Method, path: &str, body: &str, status: u16, saying: &str| {
        let (found, error) = admin.refused(method, path, body).await;
        assert_eq!(found.as_u16(), status, "{path}: {error}");
        assert!(error.contains(saying), "{path}: {error}");
    };
    check(Method::GET, "/vms?filter=stat=running", "", 400, "did you mean 'state'?").await;
    check(Method::GET, "/vms?filter=state=runing", "", 400, "expected one of stopped").await;
    check(Method::GET, "/vms?fliter=x", "", 400, "Unknown parameter 'fliter': expected filter").await;
    check(Method::POST, "/vms", r#"{"name":"a","usr":"x"}"#, 400, "unknown field `usr`").await;
    check(Method::POST, "/vms", "name=a", 400, "not the JSON").await;
    check(Method::POST, "/vms", r#"{"name":"a","user":"x","osf":"y"}"#, 404, "There is no user x").await;
    check(Method::POST, "/users", r#"{"login":"a","password":""}"#, 400, "password is empty").await;
    check(Method::POST, "/osfs", r#"{"name":"a b"}"#, 400, "is no OS flavour's name").await;
    check(Method::POST, "/hosts", r#"{"name":"n","address":"here"}"#, 400, "expected an IPv4 address").await;
    check(Method::POST, "/dis/7/tag", r#"{"tag":"x"}"#, 404, "There is no disk image 7").await;
    check(Method::GET, "/imports/none", "", 404, "There is no import none").await;
    check(Method::GET, "/nothing", "", 404, "openapi.json lists").await;
    check(Method::PUT, "/vms", "", 405, "does not take PUT").await;
    check(Method::GET, "/hosts/1/timeline", "", 404, "There is no host 1").await;
    check(Method::GET, "/hosts/boots/7", "", 404, "There is no boot 7").await;
    let big = format!(r#"{{"login":"a","password":"{}"}}"#, "x".repeat(3 << 20));
    check(Method::POST, "/users", &big, 413, "cannot be read").await;
    let _: Added = admin.post("/users", &json!({ "login": "ann", "password": "pw" })).await;
    check(Method::POST, "/users", r#"{"login":"ANN","password":"x"}"#, 409, "There is a user ann already").await;
}

#[tokio::test]
async fn nobody_enters_without_a_token_and_no_token_shows_twice() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    let (status, _) = admin.with_token("wrong").refused(Method::GET, "/vms", "").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let made: Token = admin.post("/tokens", &json!({ "kind": "admin", "note": "bob" })).await;
    let bob = admin.with_token(&made.token.0);
    let _: Added = bob.post("/users", &json!({ "login": "carl", "password": "s3cret-pw" })).await;
    let events = bob.raw(Method::GET, "/events", "").await;
    let text = String::from_utf8(events.body().to_vec()).expect("text");
    assert!(text.contains("\"actor\":\"bob\""));
    assert!(!text.contains(&made.token.0) && !text.contains("s3cret-pw"));
    let files = std::fs::read(world.dir.path().join("store.db-wal")).expect("there");
    let hidden = |needle: &str| !files.windows(needle.len()).any(|w| w == needle.as_bytes());
    assert!(hidden(&made.token.0) && hidden("s3cret-pw") && hidden(&world.qa().token));
}

#[tokio::test]
async fn every_route_of_the_list_is_there_and_wants_a_token() {
    let world = World::start().await;
    let nobody = Admin::new(world.qa()).with_token("wrong");
    for route in routes::ALL {
        let path = route.path.replace("{id}", "1").replace("{objects}", "vms");
        let method: Method = route.method.to_uppercase().parse().expect("a method");
        let answer = nobody.raw(method, &path, "").await;
        let expected = if route.path == "/openapi.json" { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(answer.status(), expected, "{} {path}", route.method);
    }
    let document: Value = nobody.get("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/api/v1/vms/start"]["post"].is_object());
}

#[tokio::test]
async fn the_cluster_tells_what_a_seed_needs() {
    let world = World::start().await;
    let cluster: Cluster = Admin::new(world.qa()).get("/cluster").await;
    assert_eq!(cluster.ca_sha256, world.serving().ca_sha256());
    assert_eq!(cluster.node_port, world.serving().node_listen.port());
    assert_eq!(crate::pki::leaf_sha256(&cluster.ca), Some(cluster.ca_sha256));
}

#[tokio::test]
async fn a_certificate_must_fit_its_key() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    let make = || world.store().pki.router_certificate(model::HostId(9), "n", [10, 0, 0, 1].into()).expect("made");
    let (one, two) = (make(), make());
    let (status, error) =
        admin.refused(Method::PUT, "/config/ssl", &json!({ "cert": one.chain, "key": two.key }).to_string()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(error.contains("do not fit together"), "{error}");
    let body = json!({ "cert": one.chain, "key": one.key }).to_string();
    assert_eq!(admin.raw(Method::PUT, "/config/ssl", body).await.status(), StatusCode::NO_CONTENT);
    let stored = world.store().db.read(|tx| tx.ssl()).await.expect("reads");
    assert_eq!(stored, Some((one.chain, one.key)));
}
