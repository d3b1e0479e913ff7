//! How far something is that is waited for.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::{collections::BTreeMap, io::IsTerminal};

/// What is printed meanwhile: a line that changes, with a bar for each part, or a line for every change where nobody looks.
pub struct Show {
    name: String,
    screen: Option<Screen>,
    last: String,
}

struct Screen {
    all: MultiProgress,
    line: ProgressBar,
    parts: BTreeMap<String, ProgressBar>,
}

/// One of several things that something consists of.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    pub name: String,
    pub done: u64,
    pub of: u64,
    pub text: String,
}

impl Screen {
    fn new() -> Self {
        let all = MultiProgress::new();
        let line = all.add(ProgressBar::new_spinner());
        Self { all, line, parts: BTreeMap::new() }
    }

    fn show(&mut self, parts: impl Iterator<Item = Part>) {
        let mut gone: Vec<String> = self.parts.keys().cloned().collect();
        for part in parts {
            gone.retain(|name| *name != part.name);
            let bar = self.parts.entry(part.name.clone()).or_insert_with(|| {
                let style = ProgressStyle::with_template("  {prefix} [{bar:9}] {wide_msg}");
                let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
                self.all.add(ProgressBar::new(part.of).with_style(style).with_prefix(part.name.clone()))
            });
            bar.set_length(part.of);
            bar.set_position(part.done);
            bar.set_message(part.text);
        }
        for bar in gone.iter().filter_map(|name| self.parts.remove(name)) {
            self.all.remove(&bar);
        }
    }
}

impl Show {
    pub fn new(name: &str) -> Self {
        let screen = std::io::stderr().is_terminal().then(Screen::new);
        Self { name: name.to_owned(), screen, last: String::new() }
    }

    pub fn line(&mut self, text: String) {
        match &self.screen {
            Some(screen) => {
                screen.line.set_message(format!("{}: {text}", self.name));
                screen.line.tick();
            }
            None if self.last != text => eprintln!("{}: {text}", self.name),
            None => {}
        }
        self.last = text;
    }

    /// One part, which is the whole; where nobody looks, the same as a line.
    pub fn bar(&mut self, done: u64, of: u64, text: String) {
        match &mut self.screen {
            // Before its end is known, a bar would be full.
            Some(screen) => {
                let part = Part { name: self.name.clone(), done, of: of.max(1), text };
                screen.show(std::iter::once(part));
            }
            None => self.line(text),
        }
    }

    /// All parts that there are now.
    pub fn parts(&mut self, parts: impl Iterator<Item = Part>) {
        if let Some(screen) = &mut self.screen {
            screen.show(parts);
        }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if let Some(screen) = &self.screen {
            // There is nobody to tell if that fails.
            let _ = screen.all.clear();
        }
    }
}
