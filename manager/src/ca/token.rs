//! Join tokens: `HDLTKN-1-`, the digest of the root certificate, and a secret for each role.

use super::CaError;
use heddle_model::{
    ClusterId,
    cluster::{Cluster, JoinTokens, Role, Secret},
};
use heddle_plumbing::tls::root_digest;

/// First field of every token, and its version.
const TOKEN_PREFIX: &str = "HDLTKN-1";

/// A token in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub root_digest: String,
    pub secret: Secret,
}

impl std::str::FromStr for Token {
    type Err = CaError;
    fn from_str(s: &str) -> Result<Self, CaError> {
        let rest = s.strip_prefix(TOKEN_PREFIX).and_then(|r| r.strip_prefix('-')).ok_or(CaError::TokenForm)?;
        let (digest, secret) = rest.split_once('-').ok_or(CaError::TokenForm)?;
        let hex = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        let base36 = secret.len() == 25 && secret.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        if !hex || !base36 {
            return Err(CaError::TokenForm);
        }
        Ok(Token { root_digest: digest.to_owned(), secret: Secret(secret.to_owned()) })
    }
}

/// A secret from 128 random bits.
pub fn secret(random: [u8; 16]) -> Secret {
    Secret(ClusterId::from_random(random).to_string())
}

pub fn new_tokens(random: [[u8; 16]; 2]) -> JoinTokens {
    let [worker, manager] = random.map(secret);
    JoinTokens { worker, manager }
}

/// The text an operator copies.
pub fn token_text(cluster: &Cluster, role: Role) -> String {
    let secret = match role {
        Role::Worker => &cluster.join_tokens.worker,
        Role::Manager => &cluster.join_tokens.manager,
    };
    format!("{TOKEN_PREFIX}-{}-{}", root_digest(&cluster.root_ca.cert_pem).unwrap_or_default(), secret.0)
}

/// The role that a token gives.
pub fn role_of(token: &str, cluster: &Cluster) -> Result<Role, CaError> {
    let token: Token = token.parse()?;
    if Some(token.root_digest) != root_digest(&cluster.root_ca.cert_pem) {
        return Err(CaError::OtherCluster);
    }
    // Compared by digest, so that the time taken tells nothing of the secret.
    let digest = |s: &Secret| <sha2::Sha256 as sha2::Digest>::digest(s.0.as_bytes());
    let given = digest(&token.secret);
    match (given == digest(&cluster.join_tokens.worker), given == digest(&cluster.join_tokens.manager)) {
        (true, _) => Ok(Role::Worker),
        (_, true) => Ok(Role::Manager),
        _ => Err(CaError::TokenRefused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_whole_or_refused() {
        let digest = "0".repeat(64);
        let secret = "a".repeat(25);
        assert!(format!("HDLTKN-1-{digest}-{secret}").parse::<Token>().is_ok());
        for bad in
            ["", "HDLTKN-1", "HDLTKN-1-x-y", &format!("HDLTKN-2-{digest}-{secret}"), &format!("HDLTKN-1-{digest}-")]
        {
            assert!(matches!(bad.parse::<Token>(), Err(CaError::TokenForm)), "{bad}");
        }
    }
}
