//! Makes the document: a path per route, a schema per message that a route reaches.

use std::collections::BTreeSet;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::routes::{Route, all};

const FILES: [&str; 3] =
    ["etcdserverpb/rpc.proto", "v3lockpb/v3lock.proto", "v3electionpb/v3election.proto"];

const ABOUT: &str = "etcd's gRPC API as JSON, on the client port beside gRPC. Every call is a POST whose body is the \
    request message. Each path is there under `/v3beta/` and `/v3alpha/` too. A client may also write names in \
    lowerCamelCase, 64-bit numbers as numbers, enums by number, and base64 of the URL alphabet or without padding; \
    null means unset, unknown fields are ignored. What is zero or empty is left out of answers.";
const STREAM: &str = "Lines of JSON, one per message, each sent at once. An error after the first line is a line too.";
const SEVERAL_REQUESTS: &str = "The body may hold several requests one after another, and may stay open while answers \
    flow. Over WebSocket, on the same path, each request and each answer is a message.";

fn document() -> Value {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let files = protox::compile(FILES, [root]).expect("the .proto files are sound");
    let pool = DescriptorPool::from_file_descriptor_set(files).expect("the compiler checked them");
    let mut messages = Messages::default();
    let paths: Map<String, Value> = all()
        .iter()
        .map(|route| {
            (format!("/v3/{}", route.path), json!({"post": call(route, &pool, &mut messages)}))
        })
        .collect();
    let schemas = messages.schemas();
    json!({
        "openapi": "3.0.3",
        "info": {"title": "etcd JSON gateway", "description": ABOUT, "version": "3.7.1"},
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"error": {
                "description": "Refused. `code` is the gRPC code that the HTTP status stands for.",
                "content": {"application/json": {"schema": reference("Error")}},
            }},
            "securitySchemes": {"token": {
                "type": "apiKey", "in": "header", "name": "Authorization",
                "description": "A token of /v3/auth/authenticate, bare or after `Bearer `.",
            }},
        },
    })
}

fn call(route: &Route, pool: &DescriptorPool, messages: &mut Messages) -> Value {
    let (service, name) = route.method[1..].split_once('/').expect("a path has two parts");
    let service = pool.get_service_by_name(service).expect("routes lead to services");
    let method = service.methods().find(|method| method.name() == name).expect("and to methods");
    let (request, response) = (messages.add(&method.input()), messages.add(&method.output()));
    let is_stream = method.is_server_streaming();
    let mut success =
        json!({"description": "Done.", "content": {"application/json": {"schema": response}}});
    if is_stream {
        success = json!({
            "description": STREAM,
            "content": {"application/json": {"schema": line(&response)}},
        });
    }
    let mut call = json!({
        "operationId": route.path.replace(['/', '-'], "_"),
        "tags": [service.name()],
        "summary": format!("{}.{}", service.full_name(), method.name()),
        "requestBody": {"content": {"application/json": {"schema": request}}},
        "responses": {"200": success, "default": {"$ref": "#/components/responses/error"}},
    });
    let fields = call.as_object_mut().expect("it is one");
    if method.is_client_streaming() {
        fields.insert("description".into(), SEVERAL_REQUESTS.into());
    }
    if is_stream {
        fields.insert("x-streaming".into(), true.into());
    }
    call
}

/// One line of a stream.
fn line(response: &Value) -> Value {
    json!({"oneOf": [
        {"type": "object", "required": ["result"], "properties": {"result": response}},
        {"type": "object", "required": ["error"], "properties": {"error": reference("Error")}},
    ]})
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// The messages that the document names, with all that they hold.
#[derive(Default)]
struct Messages {
    names: BTreeSet<String>,
    schemas: Map<String, Value>,
}

impl Messages {
    /// A reference to the message's schema, which exists from here on.
    fn add(&mut self, message: &MessageDescriptor) -> Value {
        let name = message.full_name();
        if self.names.insert(name.to_owned()) {
            let fields =
                message.fields().map(|field| (field.name().to_owned(), self.field(&field)));
            let fields: Map<String, Value> = fields.collect();
            let mut schema = json!({"type": "object"});
            if !fields.is_empty() {
                schema["properties"] = fields.into();
            }
            let choices = message.oneofs().filter(|oneof| oneof.fields().count() > 1);
            let choices: Vec<_> = choices.map(|oneof| one_of(oneof.fields())).collect();
            if !choices.is_empty() {
                schema["description"] = choices.join(" ").into();
            }
            self.schemas.insert(name.to_owned(), schema);
        }
        reference(name)
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        let one = match field.kind() {
            Kind::Message(message) => self.add(&message),
            Kind::Enum(values) => names(&values),
            Kind::Bytes => json!({"type": "string", "format": "byte"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"})
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"})
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({"type": "integer", "format": "int32"})
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({"type": "integer", "minimum": 0, "maximum": u32::MAX})
            }
            Kind::Float | Kind::Double => json!({"type": "number"}),
        };
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else {
                unreachable!("maps are lists of entries")
            };
            let value = self.field(&entry.map_entry_value_field());
            return json!({"type": "object", "additionalProperties": value});
        }
        if field.is_list() { json!({"type": "array", "items": one}) } else { one }
    }

    fn schemas(mut self) -> Map<String, Value> {
        let error = json!({
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "integer", "minimum": 1, "maximum": 16},
                "message": {"type": "string"},
                "error": {"type": "string", "description": "The message again, for clients of etcd 3.5 and before."},
            },
        });
        self.schemas.insert("Error".to_owned(), error);
        self.schemas
    }
}

fn names(values: &EnumDescriptor) -> Value {
    let names: Vec<_> = values.values().map(|value| value.name().to_owned()).collect();
    json!({"type": "string", "enum": names})
}

fn one_of(fields: impl Iterator<Item = FieldDescriptor>) -> String {
    let names: Vec<_> = fields.map(|field| format!("`{}`", field.name())).collect();
    format!("At most one of {}.", names.join(", "))
}

/// `UPDATE_DOCS=1 cargo test -p retcd-gateway` rewrites the file.
#[test]
fn the_document_agrees_with_routes_and_messages() {
    let expected = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        std::fs::write(path, expected).unwrap();
    } else {
        assert!(super::document() == expected, "run the tests with UPDATE_DOCS=1");
    }
}

#[test]
fn every_route_has_its_path_and_every_reference_leads_somewhere() {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), all().len());
    let put = &paths["/v3/kv/put"]["post"];
    let schema = &put["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(schema["$ref"], "#/components/schemas/etcdserverpb.PutRequest");
    assert_eq!(paths["/v3/watch"]["post"]["x-streaming"], true);

    let text = document.to_string();
    for reference in text.split("\"#/").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(&format!("/{pointer}")).is_some(), "{pointer}");
    }
    let ids: BTreeSet<_> =
        paths.values().map(|path| path["post"]["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), paths.len());
}
