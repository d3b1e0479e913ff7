//! What is too large is refused in one sentence that says what and how much is taken, and the manager goes on.

use crate::stage::{Stage, call};
use heddle_proto::v1::{self, control_client::ControlClient};
use std::collections::HashMap;
use tonic::Code;

fn service(name: &str, env: HashMap<String, String>) -> v1::CreateServiceRequest {
    let process = v1::ProcessSpec { command: vec!["true".into()], env, ..v1::ProcessSpec::default() };
    let task = v1::TaskSpec { runtime: Some(v1::task_spec::Runtime::Process(process)), ..v1::TaskSpec::default() };
    let spec = v1::ServiceSpec {
        annotations: Some(v1::Annotations { name: name.into(), labels: HashMap::new() }),
        mode: Some(v1::service_spec::Mode::Replicated(v1::Replicated { replicas: 1 })),
        task: Some(task),
        ..v1::ServiceSpec::default()
    };
    v1::CreateServiceRequest { spec: Some(spec), logins: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_in_one_sentence() {
    let stage = Stage::set().await;
    let channel = stage.dial(&stage.credentials);
    let mut control = ControlClient::new(channel.clone());
    let numbered = |count: usize, value: &str| (0..count).map(|n| (format!("K{n}"), value.to_owned())).collect();
    let long = "x".repeat(1 << 20);
    for (request, begins, ends) in [
        (service("web", numbered(100_000, "")), "variables: 100000 are too many", "use at most 1024"),
        (service("web", numbered(1000, "0123456789".repeat(10).as_str())), "variables: 103", "use at most 65536"),
        (service(&long, HashMap::new()), "name \"xxx", "..."),
    ] {
        let said = control.create_service(request).await.unwrap_err();
        assert_eq!(said.code(), Code::InvalidArgument, "{said}");
        assert!(said.message().starts_with(begins) && said.message().ends_with(ends), "{}", said.message());
        assert!(said.message().len() < 4096);
    }
    let unknown = control.get_node(v1::RefRequest { r#ref: long.clone() }).await.unwrap_err();
    assert!(unknown.message().starts_with("no node is called \"xxx"), "{unknown}");

    let whole = service("web", HashMap::from([("A".into(), "x".repeat(100 << 20))]));
    let said = control.create_service(whole).await.unwrap_err();
    assert_eq!(said.code(), Code::OutOfRange, "{said}");
    assert!(said.message().contains("the limit is: 4194304 bytes"), "{}", said.message());
    assert!(call(&channel, "/heddle.v1.Control/ListNodes").await.is_ok());
}
