//! Update sets, from an upload to a node.

use super::{
    World,
    http::{self, Admin},
    node::joined,
};
use ::http::{Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;
use image::{set, verity};
use model::{
    api::{Done, HostRow, NodeImageRow, Upload},
    state::UpdateStep,
    sync::{STORE_NAME, ToStore},
    update::{Progress, Versions},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::io::Cursor;

/// A small set that is one.
fn a_set(version: &str) -> Vec<u8> {
    let uki = vec![3; 70_000];
    let mut root = Cursor::new((0..200_704u32).map(|at| (at / 7) as u8).collect::<Vec<_>>());
    let verity = verity::append(&mut root, 200_704, &[7; 32]).expect("a tree");
    let root = root.into_inner();
    let mut contents = set::measure(&uki[..], &root[..]).expect("measured");
    contents.patch(&[1; 32], vec![9; 5000]);
    let about = set::About {
        name: "node".into(),
        version: version.into(),
        level: "dev".into(),
        epoch: 1_790_000_000,
        expires: None,
        verity: verity.to_string(),
        kernel: "6.12-test".into(),
        keys: None,
        cluster: None,
    };
    let mut out = Cursor::new(Vec::new());
    set::write(&mut out, &about.manifest(&contents), &[], &contents, &uki[..], &root[..]).expect("written");
    out.into_inner()
}

async fn upload(admin: &Admin, bytes: Vec<u8>) -> String {
    let upload: Upload = admin.post("/uploads", &json!({ "name": "node.set", "bytes": bytes.len() })).await;
    let sent = admin.raw(Method::PUT, &format!("/uploads/{}", upload.id), bytes).await;
    assert!(sent.status().is_success());
    json!({ "upload": upload.id }).to_string()
}

#[tokio::test]
async fn a_set_is_added_offered_to_nodes_and_fetched_in_pieces() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    let machine = joined(&world, "node1").await;
    let (mut link, ..) = machine.run(&world).await;
    let bytes = a_set("2.0");
    let body = upload(&admin, bytes.clone()).await;
    let image: NodeImageRow =
        admin.post("/images", &serde_json::from_str::<serde_json::Value>(&body).expect("JSON")).await;
    assert_eq!((image.version.as_str(), image.bytes, image.signatures), ("2.0", bytes.len() as u64, 0));
    assert_eq!(image.digest.0, <[u8; 32]>::from(Sha256::digest(&bytes)));
    let done: Done = admin.post("/hosts/update", &json!({ "image": "2.0" })).await;
    assert_eq!(done.done, 1);
    let wanted = link.desired(|d| d.update.is_some()).await.update.expect("an update");
    assert_eq!((wanted.version.as_str(), wanted.digest, wanted.go), ("2.0", image.digest, false));
    let staged = Progress { version: "2.0".into(), step: UpdateStep::Staged, detail: String::new() };
    let versions = Versions { running: "1.0".into(), update: Some(staged), ..Versions::default() };
    link.say(ToStore::Versions(versions.clone())).await;
    link.desired(|d| d.update.as_ref().is_some_and(|u| u.go)).await;
    let host = admin.get::<Vec<HostRow>>("/hosts").await.remove(0);
    assert_eq!(host.versions, Some(versions));
    assert!(host.update.is_some_and(|update| update.going));
    let piece = Request::get(format!("/sets/{}", image.digest))
        .header(header::HOST, STORE_NAME)
        .header(header::RANGE, "bytes=4096-4100")
        .body(Full::<Bytes>::default())
        .expect("a request");
    let answer = http::request(machine.dial(&world, b"http/1.1").await, piece).await;
    assert_eq!((answer.status(), &answer.body()[..]), (StatusCode::PARTIAL_CONTENT, &bytes[4096..4101]));
}

#[tokio::test]
async fn what_is_no_set_or_a_damaged_one_is_refused_with_what_was_found() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    let good = a_set("2.0");
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (bytes, expect) in [
        (vec![7; 10_000], "Cannot add node.set: "),
        (flipped(good.len() - 4000), "patch"),
        (flipped(good.len() - 15_000), "root"),
        (flipped(30_000), "UKI"),
        (good[..good.len() - 4096].to_vec(), "expected that of the file"),
        ([&good[..], &[0; 4096]].concat(), "expected that of the file"),
    ] {
        let body = upload(&admin, bytes).await;
        let (status, error) = admin.refused(Method::POST, "/images", &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
        assert!(error.contains(expect), "{error}");
    }
    assert_eq!(admin.get::<Vec<NodeImageRow>>("/images").await, []);
    let body = upload(&admin, good.clone()).await;
    assert_eq!(admin.raw(Method::POST, "/images", body).await.status(), StatusCode::CREATED);
    let body = upload(&admin, good).await;
    let (status, error) = admin.refused(Method::POST, "/images", &body).await;
    assert_eq!((status, error.as_str()), (StatusCode::CONFLICT, "There is a version of the node's image 2.0 already"));
    assert_eq!(admin.raw(Method::DELETE, "/images/1", "").await.status(), StatusCode::NO_CONTENT);
    let files = std::fs::read_dir(world.dir.path().join("images")).expect("a folder").count();
    assert_eq!(files, 1, "only the folder of uploads is left");
}
