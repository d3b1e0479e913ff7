//! How far something is that is waited for.

use std::io::IsTerminal;

/// What is printed meanwhile: one line that changes, or a line for every change where nobody looks.
pub struct Show {
    name: String,
    bar: Option<indicatif::ProgressBar>,
    last: String,
}

impl Show {
    pub fn new(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(indicatif::ProgressBar::new_spinner);
        Self { name: name.to_owned(), bar, last: String::new() }
    }

    pub fn line(&mut self, text: String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{}: {text}", self.name));
                bar.tick();
            }
            None if self.last != text => eprintln!("{}: {text}", self.name),
            None => {}
        }
        self.last = text;
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
