//! The table: a ratio, how far the rounds lie apart, and whether it is what it should be.

pub fn heading(kernel: &str) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    println!(
        "\n{:<76} {:>7} {:>7} {:>7}  aim",
        format!("{kernel} ({})", release.trim()),
        "median",
        "lowest",
        "highest"
    );
}

pub fn part(what: &str) {
    println!("{what}");
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

pub fn median(values: &[f64]) -> f64 {
    sorted(values)[values.len() / 2]
}

/// Ratios of the rounds.
pub fn ratio(what: &str, ratios: &[f64], aim: Option<f64>) {
    let all = sorted(ratios);
    let median = median(ratios);
    let verdict = aim.map_or_else(String::new, |aim| match median >= aim {
        true => format!("  met    (>= {aim})"),
        false => format!("  missed (>= {aim})"),
    });
    println!("{what:<76} {median:>7.3} {:>7.3} {:>7.3}{verdict}", all[0], all[all.len() - 1]);
}

pub fn value(what: &str, value: String) {
    println!("{what:<76} {value:>7}");
}
