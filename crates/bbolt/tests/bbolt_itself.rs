//! bbolt itself opens, checks, reads and changes what we write.
//!
//! Needs Go and its modules. Without them the test says so and passes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use retcd_bbolt::{KEY_LEN_MAX, PageSize, Writer};
use sha2::{Digest, Sha256};

/// Buckets as (name, entries, length of keys, length of values); their keys end in a number.
type Content<'a> = &'a [(&'a str, usize, usize, usize)];

#[test]
fn bbolt_finds_nothing_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let Some(checker) = checker(dir.path()) else { return };
    let contents: [(u32, Content<'_>); 8] = [
        (4096, &[]),
        (4096, &[("empty", 0, 8, 0), ("inline", 3, 8, 5), ("large", 7, 8, 1_500_000)]),
        (4096, &[("key", 50_000, 17, 256), ("lease", 400, 8, 12), ("meta", 2, 16, 8)]),
        (4096, &[("long keys", 50, KEY_LEN_MAX, 9), ("longer than half", 90, 2500, 2500)]),
        (1024, &[("a", 3, 900, 0), ("b", 4, 900, 0), ("c", 5, 900, 0), ("d", 9, 900, 900)]),
        (1024, &[("deep", 3000, 300, 400)]),
        (16_384, &[("key", 2000, 17, 1000)]),
        (65_536, &[("empty", 0, 8, 0), ("key", 20_000, 17, 256)]),
    ];
    for (page_size, content) in contents {
        let path = dir.path().join("db");
        let expected = write(&path, PageSize::new(page_size).unwrap(), content);
        let output = Command::new(&checker).arg(&path).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pages of {page_size}, {content:?}: {errors}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{content:?}");
    }
    // bbolt's asserts on the number of children come with deletions, so each count of leaves near a full branch.
    for count in 1..70 {
        let path = dir.path().join("db");
        let expected = write(&path, PageSize::new(1024).unwrap(), &[("b", count, 150, 800)]);
        let output = Command::new(&checker).arg(&path).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{count} leaves: {errors}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{count} leaves");
    }
}

/// Builds the checker, or says why not.
fn checker(dir: &Path) -> Option<PathBuf> {
    let path = dir.join("check");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go");
    let built = Command::new("go").current_dir(source).arg("build").arg("-o").arg(&path).output();
    match built {
        Err(error) => println!("skipped: go cannot be run: {error}"),
        Ok(output) if output.status.success() => return Some(path),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            let is_offline = ["dial tcp", "proxy", "lookup", "requires go"];
            assert!(is_offline.iter().any(|sign| errors.contains(sign)), "{errors}");
            println!("skipped: modules cannot be loaded: {errors}");
        }
    }
    None
}

/// Writes a file and returns the digest of its content.
fn write(path: &Path, page_size: PageSize, content: Content<'_>) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    let mut writer = Writer::new(File::create(path).unwrap(), page_size).unwrap();
    for &(name, count, key_len, value_len) in content {
        writer.bucket(name.as_bytes()).unwrap();
        add(name.as_bytes());
        for i in 0..u32::try_from(count).unwrap() {
            let mut key = vec![b'k'; key_len];
            key[key_len - 4..].copy_from_slice(&i.to_be_bytes());
            let value = vec![i.to_le_bytes()[0]; value_len];
            writer.put(&key, &value).unwrap();
            add(&key);
            add(&value);
        }
    }
    writer.finish().unwrap();
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
