//! Both forms, held against what their schemas ask for and against the manifest.

use serde_json::Value;

use crate::assemble::tests::{Bench, node};

fn documents() -> (Value, Value, image::manifest::Manifest) {
    let bench = Bench::new();
    let made = bench.assemble(&node(), "out").expect("assembled");
    let read = |suffix| {
        let bytes = std::fs::read(made.raw.with_extension(suffix)).expect("an SBOM");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    (read("spdx.json"), read("cdx.json"), made.manifest)
}

#[test]
fn spdx_attributes_every_file_to_its_package_and_deb() {
    let (spdx, _, manifest) = documents();
    assert_eq!((&spdx["spdxVersion"], &spdx["dataLicense"]), (&"SPDX-2.3".into(), &"CC0-1.0".into()));
    assert_eq!(spdx["creationInfo"]["created"], "2023-11-14T22:13:20Z");
    let files = spdx["files"].as_array().expect("files");
    let of = |files: &std::collections::BTreeMap<String, image::manifest::File>| {
        files.values().filter(|file| file.sha256.is_some()).count()
    };
    assert_eq!(files.len(), of(&manifest.files) + of(&manifest.initrd) + 1, "root, initrd, and the boot loader");
    let packages = spdx["packages"].as_array().expect("packages");
    let tool = packages.iter().find(|package| package["name"] == "tool").expect("the tool");
    assert_eq!(tool["checksums"][0]["checksumValue"], "01".repeat(32));
    assert_eq!(tool["externalRefs"][0]["referenceLocator"], "pkg:deb/debian/tool@1.0-1?arch=amd64&distro=trixie");
    let owned = tool["hasFiles"][0].as_str().expect("a file");
    let file = files.iter().find(|file| file["SPDXID"] == owned).expect("it is there");
    assert_eq!(file["fileName"], "./usr/bin/tool");
    assert_eq!(file["checksums"][0]["checksumValue"].as_str().map(str::len), Some(40));
    let all: usize = packages.iter().filter_map(|package| package["hasFiles"].as_array()).map(Vec::len).sum();
    assert_eq!(all, files.len(), "no file belongs to nobody or to two");
    for (name, file) in [("linux", "./initrd/driver.ko"), ("loader", "./boot/loader.efi"), ("roost", "./initrd/init")] {
        let package = packages.iter().find(|package| package["name"] == name).expect("a package");
        let owned = package["hasFiles"].as_array().expect("files");
        let of = |file: &&Value| owned.contains(&file["SPDXID"]);
        assert!(files.iter().filter(of).any(|found| found["fileName"] == file), "{file} is not of {name}");
    }
}

#[test]
fn cyclonedx_has_the_same_packages_and_files() {
    let (spdx, cdx, manifest) = documents();
    assert_eq!((&cdx["bomFormat"], &cdx["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    let components = cdx["components"].as_array().expect("components");
    assert_eq!(components.len() + 1, spdx["packages"].as_array().expect("packages").len());
    let files: Vec<&Value> = components.iter().flat_map(|c| c["components"].as_array().expect("files")).collect();
    for file in &files {
        let path = file["name"].as_str().and_then(|name| name.strip_prefix('/')).expect("a path");
        let digest = |path: &str| match path.strip_prefix("initrd/") {
            Some(path) => manifest.initrd[path].sha256.clone(),
            None => manifest.files.get(path).and_then(|file| file.sha256.clone()),
        };
        assert!(
            path.starts_with("boot/") || file["hashes"][0]["content"].as_str() == digest(path).as_deref(),
            "{path}"
        );
    }
    assert_eq!(files.len(), spdx["files"].as_array().expect("files").len());
    let names: std::collections::BTreeSet<_> = components.iter().map(|c| c["bom-ref"].to_string()).collect();
    assert_eq!(names.len(), components.len(), "each is named once");
    assert_eq!(components.iter().filter(|c| c["purl"].is_string()).count(), 3);
}
