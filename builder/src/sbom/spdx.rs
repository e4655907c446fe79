//! SPDX 2.3 as JSON.

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use super::{About, Part, purl};

/// What we do not claim to know: the terms are in the image, beside each package.
const UNKNOWN: &str = "NOASSERTION";

pub(super) fn document(about: &About<'_>) -> Value {
    let manifest = about.manifest;
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-Image",
    })];
    let mut packages = vec![json!({
        "SPDXID": "SPDXRef-Image", "name": manifest.name, "versionInfo": manifest.version, "filesAnalyzed": false,
        "downloadLocation": UNKNOWN, "primaryPackagePurpose": "OPERATING-SYSTEM",
        "licenseConcluded": UNKNOWN, "licenseDeclared": UNKNOWN, "copyrightText": UNKNOWN,
    })];
    let mut files = Vec::new();
    for (number, part) in about.parts.iter().enumerate() {
        let id = format!("SPDXRef-Package-{number}");
        relationships.push(json!({
            "spdxElementId": "SPDXRef-Image", "relationshipType": "CONTAINS", "relatedSpdxElement": id,
        }));
        let first = files.len();
        files.extend(part.files.iter().enumerate().map(|(at, (path, file))| {
            json!({
                "SPDXID": format!("SPDXRef-File-{}", first + at), "fileName": format!("./{path}"),
                "checksums": [
                    {"algorithm": "SHA1", "checksumValue": about.sha1.get(path)},
                    {"algorithm": "SHA256", "checksumValue": file.sha256},
                ],
                "licenseConcluded": UNKNOWN, "licenseInfoInFiles": [UNKNOWN], "copyrightText": UNKNOWN,
            })
        }));
        let has: Vec<String> = (first..files.len()).map(|at| format!("SPDXRef-File-{at}")).collect();
        packages.push(package(about, part, &id, &has));
    }
    json!({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{}-{}", manifest.name, manifest.version),
        "documentNamespace": format!("urn:uuid:{}", about.id),
        "creationInfo": {"created": about.created, "creators": [concat!("Tool: roost-", env!("CARGO_PKG_VERSION"))]},
        "packages": packages, "files": files, "relationships": relationships,
    })
}

fn package(about: &About<'_>, part: &Part<'_>, id: &str, has: &[String]) -> Value {
    let mut package = json!({
        "SPDXID": id, "name": part.name, "versionInfo": part.version, "downloadLocation": UNKNOWN,
        "filesAnalyzed": true, "hasFiles": has,
        "packageVerificationCode": {"packageVerificationCodeValue": verification_code(about, part)},
        "licenseConcluded": UNKNOWN, "licenseDeclared": UNKNOWN, "licenseInfoFromFiles": [UNKNOWN],
        "copyrightText": UNKNOWN,
    });
    if let Some(deb) = part.deb {
        package["packageFileName"] = json!(deb.path);
        package["supplier"] = json!("Organization: Debian");
        package["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": deb.sha256.to_string()}]);
        package["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl(deb),
        }]);
    }
    package
}

/// SHA-1 over the sorted SHA-1s of the package's files.
fn verification_code(about: &About<'_>, part: &Part<'_>) -> String {
    let mut digests: Vec<&str> =
        part.files.iter().filter_map(|(path, _)| about.sha1.get(path)).map(String::as_str).collect();
    digests.sort_unstable();
    image::verity::hex(&Sha1::digest(digests.concat()))
}
