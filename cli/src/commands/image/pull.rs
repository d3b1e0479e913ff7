//! image pull.

use crate::{
    client::{Client, said},
    commands::{registry, show::Show},
};
use anyhow::{Result, bail};
use clap::Args;
use heddle_engine::pull::Progress;
use heddle_model::image::ImageName;
use heddle_proto::v1;

#[derive(Debug, Args)]
pub struct PullArgs {
    /// NAME[:TAG|@DIGEST], of docker.io where no HOST/ is said
    image: ImageName,
}

/// This user's login to its registry is shown, if there is one. Ends with the digest. Whoever ends it before leaves nothing of the image.
pub async fn run(client: &Client, args: PullArgs) -> Result<()> {
    let request = v1::PullImageRequest { image: args.image.to_string(), login: registry::known(&args.image)? };
    let mut answers = client.host()?.pull_image(request).await.map_err(said)?.into_inner();
    let mut show = Show::new(args.image.as_str());
    while let Some(v1::PullImageProgress { done, of, unpacking, digest }) = answers.message().await.map_err(said)? {
        if !digest.is_empty() {
            drop(show);
            println!("{digest}");
            return Ok(());
        }
        show.bar(done, of, Progress { done, of, unpacking }.to_string());
    }
    bail!("the daemon ended before image {} was here: pull it again", args.image)
}
