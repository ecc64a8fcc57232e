//! A list of names that are let through, or all of them.

use std::collections::BTreeSet;

/// What `--cors` and `--host-whitelist` say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// None: every name.
    names: Option<BTreeSet<String>>,
}

impl Allowed {
    /// An empty list, or one with `*` in it, allows everything.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names: BTreeSet<String> = names.into_iter().collect();
        let is_open = names.is_empty() || names.contains("*");
        Self { names: (!is_open).then_some(names) }
    }

    pub fn is_everything(&self) -> bool {
        self.names.is_none()
    }

    /// Sorted; `*` alone when everything is allowed.
    pub fn names(&self) -> Vec<&str> {
        let names = self.names.as_ref().map(|names| names.iter().map(String::as_str).collect());
        names.unwrap_or_else(|| vec!["*"])
    }

    pub fn contains(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_the_star_allow_everything() {
        for names in [&[][..], &["*"], &["a", "*"]] {
            let allowed = Allowed::new(names.iter().map(ToString::to_string));
            assert!(allowed.is_everything() && allowed.contains("b"), "{names:?}");
        }
        let allowed = Allowed::new(["a".to_owned(), "b".to_owned()]);
        assert!(!allowed.is_everything() && allowed.contains("b"));
        assert_eq!(allowed.names(), ["a", "b"]);
        assert!(!allowed.contains("c") && !allowed.contains("*") && !allowed.contains(""));
    }
}
