//! `cluster user`: people who may ask the cluster through its port.

use crate::{
    client::{Client, said, user},
    commands::moment,
    output::{Format, print},
};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use heddle_plumbing::tls;
use heddle_proto::v1;
use serde_json::json;
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Make a key and a certificate for a person, who then runs commands with --as DIR
    Add {
        name: String,
        /// A new directory for them [default: NAME]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// How long the certificate counts
        #[arg(long, default_value = "8760h", value_parser = moment::duration)]
        expiry: Duration,
    },
    /// List them
    Ls {
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove them: their certificates count no more
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub async fn run(client: &Client, command: UserCommand) -> Result<()> {
    let mut users = client.users()?;
    match command {
        UserCommand::Add { name, dir, expiry } => {
            let dir = dir.unwrap_or_else(|| PathBuf::from(&name));
            if dir.exists() {
                bail!("{} is there already: use another --dir", dir.display());
            }
            let (key, csr_pem) = tls::new_key_and_csr()?;
            let request = v1::AddUserRequest { name: name.clone(), csr_pem, life_s: expiry.as_secs() };
            let made = users.add_user(request).await.map_err(said)?.into_inner();
            user::save(&dir, &key, &made).with_context(|| {
                format!("cannot write to {}: run `heddle cluster user rm {name}` before you try again", dir.display())
            })?;
            println!("{}", dir.display());
        }
        UserCommand::Ls { format } => {
            let all = users.list_users(v1::ListUsersRequest {}).await.map_err(said)?.into_inner().users;
            let times = |u: &v1::User| [moment::show(u.added_at_ms), moment::show(u.ends_ms)];
            let rows = all.iter().map(|u| [vec![u.name.clone()], times(u).to_vec()].concat()).collect();
            let value = |u: &v1::User| {
                let [added, ends] = times(u);
                json!({ "name": u.name, "added": added, "certificateEnds": ends })
            };
            print(format, &["NAME", "ADDED", "CERTIFICATE UNTIL"], rows, all.iter().map(value).collect());
        }
        UserCommand::Rm { names } => {
            for name in names {
                users.remove_user(v1::RemoveUserRequest { name: name.clone() }).await.map_err(said)?;
                println!("{name}");
            }
        }
    }
    Ok(())
}
