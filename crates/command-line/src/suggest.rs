//! What somebody may have meant who named something that does not exist.

/// How many letters a suggestion may differ in; cobra's rule.
const DISTANCE_MAX: usize = 2;

/// The names that are nearly `word`, or begin with it.
pub(crate) fn closest<'a>(
    word: &str,
    names: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = &'a str> {
    let word = word.to_lowercase();
    names.filter(move |name| {
        let distance = edit_distance(name, &word);
        name.starts_with(&word) || distance <= DISTANCE_MAX && distance < name.chars().count()
    })
}

/// The end of an error text that names what may have been meant; empty when there is nothing to name.
pub(crate) fn did_you_mean(close: &[impl AsRef<str>]) -> String {
    if close.is_empty() {
        return String::new();
    }
    let lines = close.iter().map(|name| format!("\t{}\n", name.as_ref()));
    format!("\n\nDid you mean this?\n{}", lines.collect::<String>())
}

/// How many letters must be inserted, deleted or replaced (Levenshtein), not looking at case.
fn edit_distance(left: &str, right: &str) -> usize {
    let (left, right) = (left.to_lowercase(), right.to_lowercase());
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        for (left, right, distance) in
            [("put", "put", 0), ("put", "puut", 1), ("Lease", "lese", 1), ("", "ab", 2)]
        {
            assert_eq!(edit_distance(left, right), distance, "{left} {right}");
        }
    }

    #[test]
    fn a_name_of_other_letters_is_not_close() {
        let close = |word| closest(word, ["rev", "prefix", "hex"].into_iter()).collect::<Vec<_>>();
        assert_eq!(close("rve"), ["rev"]);
        assert_eq!(close("pre"), ["rev", "prefix"]);
        assert_eq!(close("xyz"), [""; 0]);
    }
}
