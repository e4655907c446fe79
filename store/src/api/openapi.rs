//! The OpenAPI document, made of the list of routes and the schemas of `model::api`.

use super::routes::{ALL, Body, OBJECTS, Route};
use axum::Json;
use model::{
    api::{self, *},
    init::Hardening,
    update::{Other, Progress, Refused, Versions},
};
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

macro_rules! schemas {
    ($($name:ident)*) => {
        /// Every schema by its name.
        fn schemas() -> Map<String, Value> {
            let mut map = Map::new();
            $(map.insert(<$name as ToSchema>::name().into_owned(), json!(<$name as PartialSchema>::schema()));)*
            map
        }
    };
}

schemas! {
    ErrorBody Cluster Added Done Failed Keys ConfigEntry Ssl HostRow NewHost HostCounters HostRecovery OsfRow NewOsf NewUpload Upload
    NewDi Import ImportState DiRow Tag UserRow NewUser Login Totp VmRow NewVm EditVm BlockVm VmCounters PropertyRow NewToken TokenKind Token
    EventRow HostUpdate UpdateHosts NodeImageRow NewNodeImage BootRow BootLog Versions Other Progress Refused Hardening
}

/// `GET /openapi.json`.
pub(super) async fn document() -> Json<Value> {
    Json(build())
}

fn build() -> Value {
    let mut paths = Map::new();
    for route in ALL {
        for path in concrete(route.path) {
            let path = format!("{}{path}", api::BASE);
            let item = paths.entry(path.clone()).or_insert_with(|| json!({}));
            item[route.method] = operation(route, &path);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Roost store", "version": env!("CARGO_PKG_VERSION"), "license": { "name": "Apache-2.0" } },
        "paths": paths,
        "security": [{ "token": [] }],
        "components": {
            "schemas": schemas(),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn concrete(path: &str) -> Vec<String> {
    if path.contains("{objects}") {
        OBJECTS.iter().map(|object| path.replace("{objects}", object)).collect()
    } else {
        vec![path.to_owned()]
    }
}

fn operation(route: &Route, path: &str) -> Value {
    let query = route.query.iter().map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }));
    let mut parameters: Vec<Value> = query.collect();
    if path.contains("{id}") {
        parameters.push(json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }));
    }
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            route.status.to_string(): response("Success", route.answer),
            "default": response("Error", Body::One("ErrorBody")),
        },
    });
    if route.body != Body::None {
        operation["requestBody"] = json!({ "required": true, "content": content(route.body) });
    }
    if route.path == "/openapi.json" {
        operation["security"] = json!([]);
    }
    operation
}

fn response(description: &str, body: Body) -> Value {
    let mut response = json!({ "description": description });
    if body != Body::None {
        response["content"] = content(body);
    }
    response
}

fn content(body: Body) -> Value {
    let of = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let schema = match body {
        Body::Bytes => return json!({ "application/octet-stream": {} }),
        Body::None | Body::Any => json!({}),
        Body::One(name) => of(name),
        Body::Many(name) => json!({ "type": "array", "items": of(name) }),
        Body::Map => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
    };
    json!({ "application/json": { "schema": schema } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(name)) => found.push(name.clone()),
                _ => references(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let document = build();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50);
        for name in found {
            let name = name.strip_prefix("#/components/schemas/").expect("a schema");
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }

    #[test]
    fn the_document_tells_what_a_request_needs() {
        let document = build();
        let vm = &document["components"]["schemas"]["NewVm"];
        assert_eq!(vm["required"], json!(["name"]));
        assert_eq!(document["paths"]["/api/v1/vms/start"]["post"]["parameters"][0]["name"], "filter");
        assert_eq!(document["paths"]["/api/v1/dis/properties"]["put"]["requestBody"]["required"], true);
    }
}
