//! network rules: what this host's kernel does with packets, in words.

use crate::{
    client::{Client, said},
    output::{self, Format},
};
use anyhow::Result;
use clap::Args;
use heddle_proto::v1;
use serde_json::{Value, json};

const SECTIONS: [(&str, &str); 5] = [
    ("published", "Published ports"),
    ("translated", "Translated source addresses"),
    ("virtual", "Virtual addresses of services"),
    ("filter", "Filters"),
    ("encapsulated", "Encapsulated traffic between hosts"),
];

#[derive(Debug, Args)]
pub struct RulesArgs {
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn render(rules: &v1::NetworkRules) -> String {
    // In the order in which a packet meets them.
    let mut sections: Vec<&str> = Vec::new();
    for rule in &rules.rules {
        if !sections.contains(&rule.section.as_str()) {
            sections.push(&rule.section);
        }
    }
    let mut parts = Vec::new();
    for section in sections {
        let title = SECTIONS.iter().find(|(name, _)| *name == section).map_or(section, |(_, title)| title);
        let own = rules.rules.iter().filter(|r| r.section == section);
        let rows = own.map(|r| vec![r.network.clone(), r.r#match.clone(), r.action.clone()]).collect();
        parts.push(format!("{title}\n\n{}", output::table(&["NETWORK", "MATCH", "ACTION"], rows)));
    }
    parts.push(match rules.drift.as_slice() {
        [] => "The kernel is as it should be.".to_owned(),
        drift => format!("Not as it should be\n\n{}", drift.join("\n")),
    });
    parts.join("\n\n")
}

fn value(rules: &v1::NetworkRules) -> Value {
    let rule = |r: &v1::NetworkRule| json!({ "Section": r.section, "Network": r.network, "Match": r.r#match, "Action": r.action });
    json!({ "Rules": rules.rules.iter().map(rule).collect::<Vec<_>>(), "Drift": rules.drift })
}

pub async fn run(client: &Client, args: RulesArgs) -> Result<()> {
    let rules = client.host()?.get_network_rules(v1::GetNetworkRulesRequest {}).await.map_err(said)?.into_inner();
    match args.format {
        Format::Table => println!("{}", render(&rules)),
        Format::Json => println!("{:#}", value(&rules)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn rule(section: &str, network: &str, matches: &str, action: &str) -> v1::NetworkRule {
        v1::NetworkRule {
            section: section.into(),
            network: network.into(),
            r#match: matches.into(),
            action: action.into(),
        }
    }

    #[test]
    fn sections_have_headings_and_drift_is_told() {
        let mut rules = v1::NetworkRules {
            rules: vec![
                rule("published", "bridge", "tcp 0.0.0.0:8080", "to web (172.17.0.2:80)"),
                rule("translated", "bridge", "from 172.17.0.0/16, not by its bridge", "as the outgoing address"),
                rule("published", "front", "udp [::]:53", "to dns ([fd00::2]:53)"),
            ],
            drift: Vec::new(),
        };
        expect![[r#"
            Published ports

            NETWORK  MATCH             ACTION
            bridge   tcp 0.0.0.0:8080  to web (172.17.0.2:80)
            front    udp [::]:53       to dns ([fd00::2]:53)

            Translated source addresses

            NETWORK  MATCH                                  ACTION
            bridge   from 172.17.0.0/16, not by its bridge  as the outgoing address

            The kernel is as it should be."#]]
        .assert_eq(&render(&rules));
        rules.rules.clear();
        rules.drift = vec!["table inet heddle is missing".into()];
        expect![[r#"
            Not as it should be

            table inet heddle is missing"#]]
        .assert_eq(&render(&rules));
    }
}
