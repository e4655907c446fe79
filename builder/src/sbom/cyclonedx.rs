//! CycloneDX 1.6 as JSON.

use serde_json::{Value, json};

use super::{About, Part, purl};

pub(super) fn document(about: &About<'_>) -> Value {
    let manifest = about.manifest;
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "serialNumber": format!("urn:uuid:{}", about.id),
        "metadata": {
            "timestamp": about.created,
            "tools": {"components": [{"type": "application", "name": "roost", "version": env!("CARGO_PKG_VERSION")}]},
            "component": {
                "type": "operating-system", "bom-ref": "image", "name": manifest.name, "version": manifest.version,
            },
        },
        "components": about.parts.iter().map(component).collect::<Vec<_>>(),
        "dependencies": [{"ref": "image", "dependsOn": about.parts.iter().map(reference).collect::<Vec<_>>()}],
    })
}

fn reference(part: &Part<'_>) -> String {
    part.deb.map_or_else(|| part.name.to_owned(), purl)
}

fn component(part: &Part<'_>) -> Value {
    let files: Vec<Value> = part
        .files
        .iter()
        .map(|(path, file)| {
            json!({
                "type": "file", "bom-ref": format!("file:/{path}"), "name": format!("/{path}"),
                "hashes": [{"alg": "SHA-256", "content": file.sha256}],
            })
        })
        .collect();
    let mut component = json!({
        "type": "application", "bom-ref": reference(part), "name": part.name, "version": part.version,
        "components": files,
    });
    if let Some(deb) = part.deb {
        component["type"] = json!("library");
        component["purl"] = json!(purl(deb));
        component["hashes"] = json!([{"alg": "SHA-256", "content": deb.sha256.to_string()}]);
    }
    component
}
