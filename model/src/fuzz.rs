//! Everything of the model that is written as text: any text is read or refused, and what is read is written and read again.

use crate::{
    ClusterId, NodeId,
    find::find,
    meta::check_name,
    net::{IfName, Mac, Port, parse_subnet},
    tunnel::PublicKey,
};
use heddle_fuzz::run_text;
use std::{
    fmt::{Debug, Display},
    str::FromStr,
};

fn survives<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => assert_eq!(value.to_string().parse::<T>().ok(), Some(value)),
        Err(error) => drop(error.to_string()),
    }
}

#[test]
fn ids() {
    run_text(&["0123456789abcdefghijklmno"], |text| {
        survives::<ClusterId>(text);
        if let Ok(id) = text.parse::<NodeId>() {
            assert_eq!((id.as_str(), id.short().len()), (text, 12));
        }
    });
}

#[test]
fn addresses_of_links() {
    run_text(&["02:42:0a:01:00:05", "FF:ff:00:00:00:01"], |text| {
        survives::<Mac>(text);
        if text.parse::<Mac>().is_ok() {
            assert!(text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'), "{text}");
        }
    });
}

#[test]
fn ports() {
    run_text(&["80", "65535", "1"], |text| {
        survives::<Port>(text);
        assert!(text.parse::<Port>().is_err() || text.bytes().all(|b| b.is_ascii_digit()), "{text}");
    });
}

#[test]
fn subnets() {
    run_text(&["10.1.0.0/24", "fd00:1::/64", "0.0.0.0/0", "::ffff:10.0.0.0/120"], |text| {
        if let Ok(net) = parse_subnet(text) {
            assert_eq!(net.trunc(), net);
            assert_eq!(parse_subnet(&net.to_string()), Ok(net));
        }
    });
}

#[test]
fn keys_of_the_tunnel() {
    run_text(&["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="], survives::<PublicKey>);
}

#[test]
fn names_of_links() {
    run_text(&["eth0", "br-lan.100"], survives::<IfName>);
}

#[test]
fn names_and_references() {
    run_text(&["web", "web-1", &"x".repeat(63)], |text| {
        if check_name(text).is_ok() {
            assert!(text.is_ascii() && (1..=63).contains(&text.len()), "{text}");
        }
        let all = || [("0123456789abcdefghijklmno", "web", 1), ("0123456789abcdefghijklmnp", "db", 2)].into_iter();
        drop(find("service", text, all()));
    });
}
