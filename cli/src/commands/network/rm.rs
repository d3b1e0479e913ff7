//! network rm.

use super::find::{self, Found};
use crate::{
    client::{Client, Control, said},
    commands::each::each,
};
use anyhow::Result;
use clap::Args;
use heddle_proto::v1::{self, host_client::HostClient};
use tonic::{Code, Status, transport::Channel};

#[derive(Debug, Args)]
pub struct RmArgs {
    #[arg(required = true)]
    networks: Vec<String>,
    /// Those that do not exist are no error
    #[arg(short, long)]
    force: bool,
}

/// By whoever decides over it.
pub async fn remove(host: &mut HostClient<Channel>, control: &mut Control, found: &Found) -> Result<(), Status> {
    let request = v1::RefRequest { r#ref: found.id().to_owned() };
    match found.of_cluster {
        true => control.remove_network(request).await?,
        false => host.remove_network(request).await?,
    };
    Ok(())
}

pub async fn run(client: &Client, args: RmArgs) -> Result<()> {
    let (mut host, mut control) = (client.host()?, client.control()?);
    each(args.networks, async |r#ref| {
        match find::find(&mut host, &mut control, &r#ref).await {
            Ok(found) => remove(&mut host, &mut control, &found).await.map_err(said)?,
            Err(status) if args.force && status.code() == Code::NotFound => return Ok(()),
            Err(status) => return Err(said(status)),
        }
        println!("{}", r#ref);
        Ok(())
    })
    .await
}
