//! How fast files are written and read: `cargo run --release -p retcd-bbolt --example measure -- [DIR] [MIB]`.
//!
//! Entries like those of etcd's `key` bucket: keys of 17 bytes, values of 300 or 10,000. The file is in the page cache
//! when it is read; without a directory, outputs are memory and nowhere.

#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "a program for a terminal")]

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use retcd_bbolt::{Database, PageSize, Sink, Writer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let payload = args.next().map_or(Ok(1024), |mib| mib.parse::<usize>())? << 20;
    let path = dir.join("measure.db");
    for value_len in [300, 10_000] {
        let value = vec![7; value_len];
        let count = (payload / (value_len + 17)) as u64;
        println!("{count} values of {value_len} bytes");

        let start = Instant::now();
        let mut writer = Writer::measuring(PageSize::DEFAULT);
        fill(&mut writer, count, &value)?;
        let layout = writer.finish()?;
        let size_bytes = layout.size_bytes();
        report("measure", size_bytes, start);

        let start = Instant::now();
        let mut writer = Writer::streaming(io::sink(), layout)?;
        fill(&mut writer, count, &value)?;
        writer.finish()?;
        report("stream to nowhere", size_bytes, start);

        let start = Instant::now();
        let mut writer = Writer::new(File::create(&path)?, PageSize::DEFAULT)?;
        fill(&mut writer, count, &value)?;
        writer.finish()?;
        report("write a file", size_bytes, start);

        let start = Instant::now();
        let database = Database::open_path(&path)?;
        let mut found = 0;
        let mut buckets = database.buckets();
        while let Some(bucket) = buckets.next()? {
            let mut entries = database.entries(&bucket);
            while entries.next()?.is_some() {
                found += 1;
            }
        }
        report("read it", size_bytes, start);
        assert_eq!(found, count);
        fs::remove_file(&path)?;
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("peak memory: {peak}");
    Ok(())
}

fn fill<S: Sink>(
    writer: &mut Writer<S>,
    count: u64,
    value: &[u8],
) -> Result<(), retcd_bbolt::Error> {
    writer.bucket(b"key")?;
    for revision in 0..count {
        let mut key = [0; 17];
        key[..8].copy_from_slice(&revision.to_be_bytes());
        key[8] = b'_';
        writer.put(&key, value)?;
    }
    Ok(())
}

fn report(what: &str, size_bytes: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    println!("  {what:<18} {:>6.0} MB/s", size_bytes as f64 / 1e6 / seconds);
}
