//! How links that share a parent treat one another. By docker's words, which are iproute2's.

use std::fmt;

/// Of each macvlan; passthru leaves no room for another on the parent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MacvlanMode {
    #[default]
    Bridge,
    Vepa,
    Passthru,
    Private,
}

/// Of a parent: the last ipvlan made on it decides for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IpvlanMode {
    #[default]
    L2,
    L3,
    L3s,
}

/// Of a parent, like the mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IpvlanFlag {
    #[default]
    Bridge,
    Private,
    Vepa,
}

impl MacvlanMode {
    pub const ALL: [Self; 4] = [Self::Bridge, Self::Vepa, Self::Passthru, Self::Private];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Vepa => "vepa",
            Self::Passthru => "passthru",
            Self::Private => "private",
        }
    }
}

impl IpvlanMode {
    pub const ALL: [Self; 3] = [Self::L2, Self::L3, Self::L3s];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        }
    }
}

impl IpvlanFlag {
    pub const ALL: [Self; 3] = [Self::Bridge, Self::Private, Self::Vepa];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
        }
    }
}

impl fmt::Display for MacvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for IpvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for IpvlanFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
