//! image ls.

use crate::{
    client::{Client, said},
    commands::{filter::Filters, moment, pair::key_value},
    output::{self, Format},
};
use anyhow::{Result, bail};
use bytesize::ByteSize;
use clap::Args;
use heddle_model::image::ImageName;
use heddle_proto::v1;
use serde_json::{Value, json};
use wildmatch::WildMatch;

const FILTERS: [&str; 2] = ["dangling", "reference"];
const NONE: &str = "<none>";

#[derive(Debug, Args)]
pub struct LsArgs {
    /// With the column DIGEST
    #[arg(long)]
    digests: bool,
    /// reference=NAME[:TAG], in which * stands for any characters and ? for one, or dangling=true|false: without a tag
    #[arg(short, long, value_parser = key_value)]
    filter: Vec<(String, String)>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Ids in full
    #[arg(long)]
    no_trunc: bool,
    /// Print ids alone
    #[arg(short, long)]
    quiet: bool,
}

/// One line of the list.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    repository: String,
    tag: Option<String>,
    dangling: bool,
    image: v1::Image,
}

impl Line {
    fn new(image: v1::Image) -> Self {
        let name: Option<ImageName> = image.name.parse().ok();
        let parts = name.as_ref().map(ImageName::parts);
        let repository = parts.map_or_else(|| image.name.clone(), |parts| parts.repository());
        let tag = parts.and_then(|parts| parts.tag).map(str::to_owned);
        Self { repository, tag, dangling: parts.is_some_and(|parts| parts.is_dangling()), image }
    }

    fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or(NONE)
    }

    fn id(&self, full: bool) -> String {
        let digest = &self.image.digest;
        if full { digest.clone() } else { output::short(digest.strip_prefix("sha256:").unwrap_or(digest)) }
    }

    fn passes(&self, filters: &Filters) -> bool {
        let names = [self.repository.clone(), format!("{}:{}", self.repository, self.tag()), self.image.name.clone()];
        filters.any("dangling", |wanted| self.dangling == (wanted == "true"))
            && filters.any("reference", |glob| names.iter().any(|name| WildMatch::new(glob).matches(name)))
    }

    fn size(&self) -> String {
        ByteSize::b(self.image.size).to_string()
    }

    fn since(&self) -> String {
        if self.image.created_ms == 0 { "N/A".into() } else { output::ago(self.image.created_ms) }
    }

    fn row(&self, args: &LsArgs) -> Vec<String> {
        let digest = args.digests.then(|| self.image.digest.clone());
        let start = [self.repository.clone(), self.tag().to_owned()].into_iter();
        start.chain(digest).chain([self.id(args.no_trunc), self.since(), self.size()]).collect()
    }

    /// docker's keys.
    fn value(&self, args: &LsArgs) -> Value {
        json!({
            "ID": self.id(args.no_trunc),
            "Repository": self.repository,
            "Tag": self.tag(),
            "Digest": self.image.digest,
            "CreatedAt": moment::show(self.image.created_ms),
            "CreatedSince": self.since(),
            "Size": self.size(),
        })
    }
}

fn filters(given: Vec<(String, String)>) -> Result<Filters> {
    let filters = Filters::new(given, &FILTERS)?;
    if let Some(value) = filters.values("dangling").find(|value| !["true", "false"].contains(value)) {
        bail!("filter dangling={value}: use true or false");
    }
    Ok(filters)
}

pub async fn run(client: &Client, args: LsArgs) -> Result<()> {
    let filters = filters(args.filter.clone())?;
    let answer = client.host()?.list_images(v1::ListImagesRequest {}).await.map_err(said)?;
    let mut lines: Vec<Line> = answer.into_inner().images.into_iter().map(Line::new).collect();
    lines.retain(|line| line.passes(&filters));
    if args.quiet {
        lines.iter().for_each(|line| println!("{}", line.id(args.no_trunc)));
        return Ok(());
    }
    let mut headings = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if args.digests {
        headings.insert(2, "DIGEST");
    }
    let rows = lines.iter().map(|line| line.row(&args)).collect();
    output::print(args.format, &headings, rows, lines.iter().map(|line| line.value(&args)).collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let digest = format!("sha256:{}", "a1".repeat(32));
        let names = [
            "docker.io/library/nginx:1.27".to_owned(),
            format!("host:5000/team/web:2@{digest}"),
            format!("host:5000/team/web@{digest}"),
            "Not A Name".to_owned(),
        ];
        let image = |name: String| v1::Image { name, digest: digest.clone(), size: 2048, created_ms: 0 };
        names.map(image).map(Line::new).into()
    }

    #[test]
    fn columns_are_dockers() {
        let args = LsArgs { digests: false, filter: vec![], format: Format::Table, no_trunc: false, quiet: false };
        let rows: Vec<_> = lines().iter().map(|line| line.row(&args).join(" ")).collect();
        assert_eq!(
            rows,
            [
                "nginx 1.27 a1a1a1a1a1a1 N/A 2.0 KiB",
                "host:5000/team/web 2 a1a1a1a1a1a1 N/A 2.0 KiB",
                "host:5000/team/web <none> a1a1a1a1a1a1 N/A 2.0 KiB",
                "Not A Name <none> a1a1a1a1a1a1 N/A 2.0 KiB",
            ]
        );
        let with = lines()[0].row(&LsArgs { digests: true, no_trunc: true, ..args });
        assert_eq!((with.len(), &with[2]), (6, &with[3]));
    }

    #[test]
    fn filters_choose() {
        for (filter, want) in [
            ("dangling=true", vec![2]),
            ("dangling=false", vec![0, 1, 3]),
            ("reference=nginx", vec![0]),
            ("reference=nginx:1.*", vec![0]),
            ("reference=*/web", vec![1, 2]),
            ("reference=*web:?", vec![1]),
            ("reference=docker.io/*", vec![0]),
            ("reference=web", vec![]),
        ] {
            let filters = filters(vec![key_value(filter).unwrap()]).unwrap();
            let chosen: Vec<_> = (0..4).filter(|&at| lines()[at].passes(&filters)).collect();
            assert_eq!(chosen, want, "{filter}");
        }
        let said = filters(vec![key_value("dangling=odd").unwrap()]).unwrap_err().to_string();
        assert_eq!(said, "filter dangling=odd: use true or false");
    }
}
