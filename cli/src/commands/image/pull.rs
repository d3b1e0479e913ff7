//! image pull.

use crate::{
    client::{Client, said},
    commands::{registry, show::Show},
};
use anyhow::{Result, bail};
use clap::Args;
use heddle_engine::{image::reference, pull::Progress};
use heddle_model::image::ImageName;
use heddle_proto::v1;

#[derive(Debug, Args)]
pub struct PullArgs {
    /// NAME[:TAG|@DIGEST], of docker.io where no HOST/ is said
    image: ImageName,
}

/// Whoever runs an image has it then, under this very name: one with its digest beside the tag is another.
pub async fn fetch(client: &Client, image: &ImageName) -> Result<()> {
    let name = reference(image).whole();
    let here = client.host()?.list_images(v1::ListImagesRequest {}).await.map_err(said)?.into_inner().images;
    if here.iter().any(|image| image.name == name) { Ok(()) } else { pull(client, image).await.map(drop) }
}

pub async fn run(client: &Client, args: PullArgs) -> Result<()> {
    println!("{}", pull(client, &args.image).await?);
    Ok(())
}

/// This user's login to its registry is shown, if there is one. Ends with the digest. Whoever ends it before leaves nothing of the image.
pub async fn pull(client: &Client, image: &ImageName) -> Result<String> {
    let request = v1::PullImageRequest { image: image.to_string(), login: registry::known(image)? };
    let mut answers = client.host()?.pull_image(request).await.map_err(said)?.into_inner();
    let mut show = Show::new(image.as_str());
    while let Some(v1::PullImageProgress { done, of, unpacking, digest }) = answers.message().await.map_err(said)? {
        if !digest.is_empty() {
            return Ok(digest);
        }
        show.bar(done, of, Progress { done, of, unpacking }.to_string());
    }
    bail!("the daemon ended before image {} was here: pull it again", image)
}
