//! What the kernel knows about this process, read from `/proc` at every scrape.
//!
//! What cannot be read stays zero: a scrape never fails for it.

use std::fs;

use super::Row;
use super::registry::{Family, Gauge, Metric};

/// Clock ticks per second in `/proc`: fixed in Linux's interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// A snapshot. The two totals of time and bytes are shown as counters.
#[derive(Debug, Default)]
pub(super) struct Process {
    cpu_seconds: Total,
    pub(super) open_fds: Gauge,
    pub(super) max_fds: Gauge,
    resident_bytes: Gauge,
    virtual_bytes: Gauge,
    max_virtual_bytes: Gauge,
    start_time: Gauge,
    received_bytes: Total,
    transmitted_bytes: Total,
}

/// A counter with a fraction, kept by the kernel.
#[derive(Debug, Default)]
struct Total(Gauge);

impl Family for Total {
    fn type_name(&self) -> &'static str {
        "counter"
    }

    #[cfg(test)]
    fn labels(&self) -> &[&'static str] {
        &[]
    }

    #[cfg(test)]
    fn bounds(&self) -> &[f64] {
        &[]
    }

    fn write_samples(&self, text: &mut String, name: &str) {
        self.0.write(text, name, "");
    }
}

impl Process {
    pub(super) fn read() -> Self {
        let process = Self::default();
        process.read_stat(&read("self/stat"), &read("stat"));
        process.read_status(&read("self/status"));
        process.read_limits(&read("self/limits"));
        process.read_network(&read("self/net/netstat"));
        // The directory that is being read is open too, and not of interest.
        let open = fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1));
        process.open_fds.set_count(open as u64);
        process
    }

    /// CPU time and start, from the fields behind the name in parentheses: 14, 15 and 22 of proc(5).
    fn read_stat(&self, stat: &str, system: &str) {
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |number: usize| fields.get(number - 3).map_or(0.0, |field| number_of(field));
        self.cpu_seconds.0.set((ticks(14) + ticks(15)) / TICKS_PER_SECOND);
        let boot = line_after(system, "btime ").map_or(0.0, number_of);
        self.start_time.set(boot + ticks(22) / TICKS_PER_SECOND);
    }

    fn read_status(&self, status: &str) {
        let kibibytes = |name| line_after(status, name).map_or(0.0, number_of) * 1024.0;
        self.resident_bytes.set(kibibytes("VmRSS:"));
        self.virtual_bytes.set(kibibytes("VmSize:"));
    }

    fn read_limits(&self, limits: &str) {
        let limit = |name| match line_after(limits, name).map(str::trim_start) {
            // The largest number, as Go's library says it.
            Some(line) if line.starts_with("unlimited") => 2_f64.powi(64),
            line => line.map_or(0.0, number_of),
        };
        self.max_fds.set(limit("Max open files"));
        self.max_virtual_bytes.set(limit("Max address space"));
    }

    /// Two lines per protocol: names, then numbers.
    fn read_network(&self, netstat: &str) {
        let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt: "));
        let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return };
        for (name, number) in names.split(' ').zip(numbers.split(' ')) {
            match name {
                "InOctets" => self.received_bytes.0.set(number_of(number)),
                "OutOctets" => self.transmitted_bytes.0.set(number_of(number)),
                _ => {}
            }
        }
    }

    /// Resident and reserved bytes, and the limit of open files.
    pub(super) fn memory_and_files(&self) -> (f64, f64, f64) {
        (self.resident_bytes.get(), self.virtual_bytes.get(), self.max_fds.get())
    }

    pub(super) fn rows(&self) -> [Row<'_>; 9] {
        [
            ("process_cpu_seconds_total", "CPU time used.", &self.cpu_seconds),
            ("process_open_fds", "Open files.", &self.open_fds),
            ("process_max_fds", "Open file limit.", &self.max_fds),
            ("process_resident_memory_bytes", "RAM in use.", &self.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual size.", &self.virtual_bytes),
            ("process_virtual_memory_max_bytes", "Virtual size limit.", &self.max_virtual_bytes),
            ("process_start_time_seconds", "Start as unix time.", &self.start_time),
            ("process_network_receive_bytes_total", "Network bytes in.", &self.received_bytes),
            ("process_network_transmit_bytes_total", "Network bytes out.", &self.transmitted_bytes),
        ]
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(format!("/proc/{path}")).unwrap_or_default()
}

fn line_after<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(prefix))
}

/// The number at the start of a text; zero when there is none.
fn number_of(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc() {
        let process = Process::default();
        let fields: Vec<String> = (3..=22).map(|number| (number * 100).to_string()).collect();
        process.read_stat(&format!("1 (a ) b) {}", fields.join(" ")), "cpu 1\nbtime 1000\n");
        assert_eq!(process.cpu_seconds.0.get().to_bits(), 29_f64.to_bits());
        assert_eq!(process.start_time.get().to_bits(), 1022_f64.to_bits());
        process.read_limits("Max open files            1024                 4096    files\n");
        assert_eq!(process.max_fds.get().to_bits(), 1024_f64.to_bits());
        process.read_network("TcpExt: A\nTcpExt: 1\nIpExt: X InOctets OutOctets\nIpExt: 1 2 3\n");
        assert_eq!(process.received_bytes.0.get().to_bits(), 2_f64.to_bits());
        assert_eq!(process.transmitted_bytes.0.get().to_bits(), 3_f64.to_bits());
    }
}
