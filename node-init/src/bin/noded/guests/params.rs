//! The parameters of a session: the client's wishes, then what administrators and authentication say.

use heapless::Vec;
use model::grant::Grant;
use vma_proto::{MAX_PARAMS, Name, Text};

/// Parameters as they go to the agent.
pub type Params = Vec<(Name, Text), MAX_PARAMS>;
/// Name under which the agent learns whose desktop it is.
const USER: &str = "qvd.vm.user.name";
/// A client may set parameters under these, and no other.
const OF_CLIENTS: [&str; 2] = ["qvd.client.", "custom."];

/// A parameter that cannot be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    /// Longer than a frame has room for.
    #[error("Parameter '{0}' is too long: at most 64 bytes of name and 512 of value")]
    TooLong(String),
    /// More than a frame has room for.
    #[error("{0} session parameters, of {MAX_PARAMS} at most: remove properties of the VM, its user or its image")]
    TooMany(usize),
}

/// Merges the parameters of one session; of equal names the last one wins, and only that one is kept.
/// What a client has no say in is dropped from its list, as the router refuses it already.
pub fn merge(client: &[(String, String)], grant: &Grant) -> Result<Params, ParamError> {
    let user = (USER.to_owned(), grant.login.clone());
    let allowed = client.iter().filter(|(name, _)| OF_CLIENTS.iter().any(|p| name.starts_with(p)));
    let all: std::vec::Vec<_> = allowed.chain(&grant.params).chain([&user]).collect();
    let last_of = |i: usize| all[i + 1..].iter().all(|(name, _)| *name != all[i].0);
    let kept: std::vec::Vec<_> = (0..all.len()).filter(|i| last_of(*i)).map(|i| all[i]).collect();
    let mut params = Params::new();
    for (name, value) in &kept {
        let too_long = || ParamError::TooLong(name.clone());
        let pair = (
            Name::try_from(name.as_str()).map_err(|_| too_long())?,
            Text::try_from(value.as_str()).map_err(|_| too_long())?,
        );
        params.push(pair).map_err(|_| ParamError::TooMany(kept.len()))?;
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{HostId, UserId, VmId};

    fn grant(params: &[(&str, &str)]) -> Grant {
        let params = pairs(params);
        Grant { user: UserId(1), vm: VmId(2), host: HostId(3), expires: 0, login: "alice".into(), params }
    }

    fn pairs(list: &[(&str, &str)]) -> std::vec::Vec<(String, String)> {
        list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[track_caller]
    fn check(client: &[(&str, &str)], granted: &[(&str, &str)], expect: &[(&str, &str)]) {
        let merged = merge(&pairs(client), &grant(granted)).expect("fits");
        let merged: std::vec::Vec<_> = merged.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(merged, expect);
    }

    #[test]
    fn administrators_win_over_clients_and_the_login_over_all() {
        check(
            &[("qvd.client.link", "lan"), ("qvd.client.os", "linux")],
            &[("qvd.client.link", "modem"), ("qvd.vm.user.name", "root")],
            &[("qvd.client.os", "linux"), ("qvd.client.link", "modem"), ("qvd.vm.user.name", "alice")],
        );
    }

    #[test]
    fn a_client_cannot_set_what_is_not_its_own() {
        check(&[("qvd.vm.user.uid", "0"), ("custom.x", "y")], &[], &[("custom.x", "y"), ("qvd.vm.user.name", "alice")]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let long = [("custom.x".to_owned(), "v".repeat(600))];
        assert_eq!(merge(&long, &grant(&[])), Err(ParamError::TooLong("custom.x".into())));
        let many: std::vec::Vec<_> = (0..60).map(|i| (format!("custom.{i}"), String::new())).collect();
        assert_eq!(merge(&many, &grant(&[])), Err(ParamError::TooMany(61)));
    }
}
