//! Simple tokens: who was given which.
//!
//! A token is the letters that its log entry brings, a dot, and the index before the entry's: so all members know it once
//! they are beyond that index, and no two are alike. How long it lives each member counts for itself, by its own clock; who uses
//! a token renews it there. Nothing of this is stored.

use std::collections::BTreeMap;
use std::time::Duration;

/// How often tokens that nobody used are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Tokens {
    life: Duration,
    by_token: BTreeMap<String, Token>,
    sweep_due: Duration,
}

#[derive(Debug)]
struct Token {
    user: String,
    dies: Duration,
}

impl Tokens {
    pub(crate) fn new(life: Duration) -> Self {
        Tokens { life, by_token: BTreeMap::new(), sweep_due: Duration::ZERO }
    }

    /// Gives a token to a user. `now` is any monotonic time, the same clock in all calls.
    pub(crate) fn assign(&mut self, user: &str, token: String, now: Duration) {
        if now >= self.sweep_due {
            self.sweep_due = now + SWEEP_INTERVAL;
            self.by_token.retain(|_, token| token.dies > now);
        }
        let dies = now.saturating_add(self.life);
        self.by_token.insert(token, Token { user: user.to_owned(), dies });
    }

    /// Whose token this is. Asking renews it.
    pub(crate) fn user(&mut self, token: &str, now: Duration) -> Option<String> {
        let found = self.by_token.get_mut(token)?;
        if found.dies <= now {
            self.by_token.remove(token);
            return None;
        }
        found.dies = now.saturating_add(self.life);
        Some(found.user.clone())
    }

    /// Takes the tokens away from all users that `keeps` does not name.
    pub(crate) fn retain(&mut self, keeps: impl Fn(&str) -> bool) {
        self.by_token.retain(|_, token| keeps(&token.user));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_as_long_as_it_is_used() {
        let seconds = Duration::from_secs;
        let mut tokens = Tokens::new(seconds(10));
        tokens.assign("alice", "a.1".into(), seconds(0));
        assert_eq!(tokens.user("a.1", seconds(9)).as_deref(), Some("alice"));
        assert_eq!(tokens.user("a.1", seconds(18)).as_deref(), Some("alice"));
        assert_eq!(tokens.user("a.1", seconds(28)), None);
        assert_eq!(tokens.user("a.2", seconds(28)), None);
    }

    #[test]
    fn dead_tokens_are_swept_and_others_taken_away() {
        let seconds = Duration::from_secs;
        let mut tokens = Tokens::new(seconds(10));
        tokens.assign("alice", "a.1".into(), seconds(0));
        tokens.assign("bob", "b.2".into(), seconds(5));
        tokens.assign("bob", "b.3".into(), seconds(11));
        assert_eq!(tokens.by_token.len(), 2);
        tokens.retain(|user| user != "bob");
        assert!(tokens.by_token.is_empty());
    }
}
