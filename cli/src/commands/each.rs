//! One command for several objects.

use anyhow::Result;
use serde_json::Value;

/// Acts on each in turn, as docker does: what fails is told and does not stop the rest. The last failure is the answer.
pub async fn each(refs: Vec<String>, mut act: impl AsyncFnMut(String) -> Result<()>) -> Result<()> {
    let mut failed: Option<anyhow::Error> = None;
    for r#ref in refs {
        if let Err(error) = act(r#ref).await
            && let Some(before) = failed.replace(error)
        {
            eprintln!("heddle: {before:#}");
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Prints what was found of each as one JSON array, even if something was not.
pub async fn show_each(refs: Vec<String>, mut find: impl AsyncFnMut(String) -> Result<Value>) -> Result<()> {
    let mut found = Vec::new();
    let all = each(refs, async |r#ref| {
        found.push(find(r#ref).await?);
        Ok(())
    })
    .await;
    println!("{:#}", Value::Array(found));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[tokio::test]
    async fn a_failure_does_not_stop_the_rest() {
        let mut seen = Vec::new();
        let refs = ["a", "b", "c"].map(String::from).to_vec();
        let done = each(refs, async |name| {
            seen.push(name.clone());
            if name == "b" { bail!("no {name}") } else { Ok(()) }
        })
        .await;
        assert_eq!(done.unwrap_err().to_string(), "no b");
        assert_eq!(seen, ["a", "b", "c"]);
    }
}
