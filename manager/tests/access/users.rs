//! A person's certificate opens what operators may call, for as long as that person is a user.

use crate::stage::{Stage, call};
use heddle_manager::control::STALE_HEADER;
use heddle_plumbing::tls;
use heddle_proto::v1::{self, users_client::UsersClient};
use tonic::{Code, Request, transport::Channel};

/// A channel as that user has it.
pub async fn add(stage: &Stage, name: &str) -> Channel {
    let (key, csr_pem) = tls::new_key_and_csr().unwrap();
    let wish = v1::AddUserRequest { name: name.into(), csr_pem, life_s: 600 };
    let made = UsersClient::new(stage.dial(&stage.credentials)).add_user(wish).await.unwrap().into_inner();
    tls::dial_user(stage.addr, &key, &made.cert_pem, &made.roots_pem).unwrap()
}

async fn remove(stage: &Stage, name: &str) {
    let mut users = UsersClient::new(stage.dial(&stage.credentials));
    users.remove_user(v1::RemoveUserRequest { name: name.into() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_is_refused_although_the_name_is_given_again() {
    let stage = Stage::set().await;
    let list = "/heddle.v1.Control/ListNodes";
    let first = add(&stage, "alice").await;
    assert!(call(&first, list).await.is_ok());
    let denied =
        ["Control/GetJoinToken", "Control/GetUnlockKey", "Control/Backup", "Users/AddUser", "Dispatcher/Leave"];
    for path in denied.map(|method| format!("/heddle.v1.{method}")) {
        assert_eq!(call(&first, &path).await.unwrap_err().code(), Code::PermissionDenied, "{path}");
    }
    remove(&stage, "alice").await;
    let said = call(&first, list).await.unwrap_err();
    assert_eq!(said.message(), "user alice was removed from the cluster");
    let second = add(&stage, "alice").await;
    assert!(call(&second, list).await.is_ok());
    assert_eq!(call(&first, list).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_names_keys_and_lives_make_no_user() {
    let stage = Stage::set().await;
    let (_, csr) = tls::new_key_and_csr().unwrap();
    let mut users = UsersClient::new(stage.dial(&stage.credentials));
    for (name, csr_pem, life_s) in [("", csr.as_str(), 60), ("a.b", &csr, 60), ("bob", "rubbish", 60), ("bob", &csr, 0)]
    {
        let wish = v1::AddUserRequest { name: name.into(), csr_pem: csr_pem.into(), life_s };
        let said = users.add_user(Request::new(wish)).await.unwrap_err();
        assert_eq!(said.code(), Code::InvalidArgument, "{name:?}: {said}");
    }
    let mut stale = Request::new(v1::AddUserRequest { name: "bob".into(), csr_pem: csr.clone(), life_s: 60 });
    stale.metadata_mut().insert(STALE_HEADER, "1".parse().unwrap());
    assert!(users.add_user(stale).await.unwrap_err().message().starts_with("--stale is for commands that look"));
    assert_eq!(users.list_users(v1::ListUsersRequest {}).await.unwrap().into_inner().users, []);
    let unknown = users.remove_user(v1::RemoveUserRequest { name: "bob".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}
