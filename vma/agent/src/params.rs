//! Session parameters: QVD's names and values, later ones win.

use std::collections::BTreeMap;
use vma_proto::Open;

/// The parameters of one `Open`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    /// Of a request.
    pub fn of(open: &Open) -> Self {
        Self(open.params.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    /// The value, unless absent or empty: clients send parameters that they do not know as empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The client's value of `qvd.client.NAME`, else the administrator's `vma.default.client.NAME`.
    pub fn client(&self, name: &str) -> Option<&str> {
        self.get(&format!("qvd.client.{name}")).or_else(|| self.get(&format!("vma.default.client.{name}")))
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Params {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_word_goes_before_the_default_and_an_empty_one_is_none() {
        let params = Params::from([("vma.default.client.link", "adsl"), ("qvd.client.link", "lan")]);
        assert_eq!(params.client("link"), Some("lan"));
        let params = Params::from([("vma.default.client.link", "adsl"), ("qvd.client.link", "")]);
        assert_eq!(params.client("link"), Some("adsl"));
        assert_eq!(params.client("geometry"), None);
    }

    #[test]
    fn of_two_values_the_later_wins() {
        let mut open = Open { ticket: [0; 16], kind: vma_proto::Kind::Nx, params: Default::default() };
        for value in ["a", "b"] {
            let pair = ("k".try_into().expect("short"), value.try_into().expect("short"));
            open.params.push(pair).expect("room");
        }
        assert_eq!(Params::of(&open).get("k"), Some("b"));
    }
}
