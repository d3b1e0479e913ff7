//! Texts that say for each task what is its own: `{{.Task.Slot}}`, as docker's templates of services do. `{{"{{"}}` stands for
//! two braces.

/// What stands for what. Anything else in double braces is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    pub service_id: String,
    pub service_name: String,
    pub node_id: String,
    pub node_hostname: String,
    pub task_id: String,
    pub task_name: String,
    pub task_slot: String,
}

const NAMES: [&str; 7] =
    [".Service.ID", ".Service.Name", ".Node.ID", ".Node.Hostname", ".Task.ID", ".Task.Name", ".Task.Slot"];

impl Values {
    fn get(&self, name: &str) -> Option<&str> {
        let values = [
            &self.service_id,
            &self.service_name,
            &self.node_id,
            &self.node_hostname,
            &self.task_id,
            &self.task_name,
            &self.task_slot,
        ];
        let found = NAMES.iter().zip(values).find(|(n, _)| **n == name).map(|(_, value)| value.as_str());
        found.or((name == BRACES).then_some("{{"))
    }
}

/// Of two braces that are no template.
const BRACES: &str = "\"{{\"";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    #[error(
        "template {{{{{name}}}}} is unknown: use one of {}, and {{{{{BRACES}}}}} where two braces are meant",
        NAMES.map(|n| format!("{{{{{n}}}}}")).join(", ")
    )]
    Unknown { name: String },
    #[error("template {text:?} has no end: close it with }}}}, or write {{{{{BRACES}}}}} where two braces are meant")]
    Open { text: String },
}

/// The text with the values in it. What stands for nothing stays as it is: it was accepted before there were templates.
pub fn render(text: &str, values: &Values) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let known = after.split_once("}}").and_then(|(name, tail)| Some((values.get(name.trim())?, tail)));
        let (value, tail) = known.unwrap_or(("{{", after));
        out.push_str(value);
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// Whether all of it stands for something.
pub fn check(text: &str) -> Result<(), BadTemplate> {
    let shown = |text: &str| text.chars().take(40).collect();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("{{") {
        let (name, tail) = after.split_once("}}").ok_or_else(|| BadTemplate::Open { text: shown(after) })?;
        let known = Values::default().get(name.trim()).is_some();
        if !known {
            return Err(BadTemplate::Unknown { name: shown(name.trim()) });
        }
        rest = tail;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_has_its_own() {
        let values = Values {
            service_id: "s1".into(),
            service_name: "web".into(),
            node_id: "n1".into(),
            node_hostname: "host".into(),
            task_id: "t1".into(),
            task_name: "web.3.t1".into(),
            task_slot: "3".into(),
        };
        let all = NAMES.map(|n| format!("{{{{{n}}}}}")).join(" ");
        assert_eq!(render(&all, &values), "s1 web n1 host t1 web.3.t1 3");
        assert_eq!(render("a{{ .Task.Slot }}-{b}}", &values), "a3-{b}}");
        assert_eq!(render("{{\"{{\"}}.Task.Slot}} {{x {{.Task.Slot}}", &values), "{{.Task.Slot}} {{x 3");
        assert_eq!(check("{{\"{{\"}} x }}"), Ok(()));
    }

    #[test]
    fn what_is_unknown_is_named_with_what_is_known() {
        let said = check("x{{.Node.Name}}").unwrap_err().to_string();
        assert!(said.starts_with("template {{.Node.Name}} is unknown: use one of {{.Service.ID}}, "), "{said}");
        let said = check("x{{.Task.ID}").unwrap_err().to_string();
        assert!(said.starts_with("template \".Task.ID}\" has no end: close it with }}, or write {{\"{{\"}}"), "{said}");
    }
}
