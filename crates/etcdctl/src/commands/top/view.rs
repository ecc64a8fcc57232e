//! One frame of `top`, as lines.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::keys::Prefixes;
use super::members::{Members, State, is_leader};
use crate::print::{shown, size};
use retcd_command_line::go::duration;

/// Prefixes to show where there is no end to the rows.
const PREFIXES_MAX: usize = 10;
/// Rows for prefixes that are kept free even when there are many members.
const PREFIXES_MIN: usize = 3;

const HEADER: [&str; 14] = [
    "MEMBER", "ROLE", "VERSION", "DB SIZE", "IN USE", "INDEX", "BEHIND", "PUT/S", "READ/S",
    "TXN/S", "SLOW/S", "SYNC", "WATCHERS", "MEMORY",
];

/// Draws a frame. `columns_and_rows` is what it must fit into, if anything.
pub(super) fn frame(
    members: &Members,
    prefixes: Option<&Prefixes>,
    columns_and_rows: Option<(usize, usize)>,
) -> Vec<String> {
    let mut lines = vec![title(members), String::new()];
    let rows = members.states.iter().map(|state| row(members, state));
    lines.extend(table(&HEADER, &rows.collect::<Vec<_>>()));
    for state in &members.states {
        if let Err(error) = &state.status {
            lines.push(format!("  {}: {error}", state.endpoint));
        }
    }
    if let Some(prefixes) = prefixes {
        let room = columns_and_rows.map_or(PREFIXES_MAX, |(_, rows)| {
            rows.saturating_sub(lines.len() + 3).max(PREFIXES_MIN)
        });
        lines.push(String::new());
        lines.extend(prefix_lines(prefixes, room));
    }
    if let Some((columns, rows)) = columns_and_rows {
        lines.truncate(rows);
        for line in &mut lines {
            cut(line, columns);
        }
    }
    lines
}

fn title(members: &Members) -> String {
    let reachable = members.states.iter().filter(|state| state.status.is_ok()).count();
    let asked = members.states.len();
    let Some(status) = members.reference() else {
        return format!("etcdctl top - none of {asked} endpoints answers");
    };
    let header = status.header.unwrap_or_default();
    let leader = match members.names.get(&status.leader) {
        _ if status.leader == 0 => "none".to_owned(),
        Some(name) if !name.is_empty() => name.clone(),
        Some(_) | None => format!("{:x}", status.leader),
    };
    format!(
        "etcdctl top - cluster {:x}, leader {leader}, term {}, revision {}, {reachable} of {asked} endpoints",
        header.cluster_id, status.raft_term, header.revision
    )
}

fn row(members: &Members, state: &State) -> [String; HEADER.len()] {
    let number =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    let rate =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    let rates = state.rates.as_ref();
    let mut row = [const { String::new() }; HEADER.len()];
    row.fill("-".to_owned());
    row[0].clone_from(&state.endpoint);
    "down".clone_into(&mut row[1]);
    if let Ok(status) = &state.status {
        let id = status.header.map_or(0, |header| header.member_id);
        if let Some(name) = members.names.get(&id).filter(|name| !name.is_empty()) {
            row[0].clone_from(name);
        }
        let role = if is_leader(status) {
            "leader"
        } else if status.is_learner {
            "learner"
        } else {
            "follower"
        };
        let newest = members.states.iter().filter_map(|state| state.status.as_ref().ok());
        let newest = newest.map(|status| status.raft_index).max().unwrap_or(0);
        role.clone_into(&mut row[1]);
        row[2].clone_from(&status.version);
        row[3] = size(status.db_size);
        row[4] = size(status.db_size_in_use);
        row[5] = status.raft_applied_index.to_string();
        row[6] = newest.saturating_sub(status.raft_applied_index).to_string();
    }
    row[7] = rate(rates.map(|rates| rates.puts));
    row[8] = rate(rates.map(|rates| rates.reads));
    row[9] = rate(rates.map(|rates| rates.transactions));
    row[10] = rate(rates.map(|rates| rates.slow));
    if let Some(sync) = rates.and_then(|rates| rates.sync) {
        // Whole microseconds are fine enough for people.
        let micros = u64::try_from(sync.as_micros()).unwrap_or(u64::MAX);
        row[11] = duration::format(std::time::Duration::from_micros(micros));
    }
    let counters = state.counters.as_ref();
    row[12] = number(counters.map(|counters| counters.watchers));
    row[13] =
        counters.map_or_else(|| "-".to_owned(), |counters| size(whole(counters.memory_bytes)));
    row
}

#[allow(clippy::cast_possible_truncation, reason = "sizes of memory are far below 2^63")]
fn whole(bytes: f64) -> i64 {
    bytes as i64
}

/// The hottest prefixes on the left and the largest on the right.
fn prefix_lines(prefixes: &Prefixes, room: usize) -> Vec<String> {
    let hottest = prefixes.hottest.iter().take(room);
    let hottest: Vec<[String; 2]> =
        hottest.map(|(prefix, rate)| [shown(prefix), format!("{rate:.1}")]).collect();
    let largest = prefixes.largest.iter().take(room);
    let largest: Vec<[String; 3]> = largest
        .map(|(prefix, found)| {
            let bytes = i64::try_from(found.bytes).unwrap_or(i64::MAX);
            [shown(prefix), found.keys.to_string(), size(bytes)]
        })
        .collect();
    let title = if prefixes.is_complete { "LARGEST PREFIXES" } else { "LARGEST PREFIXES SO FAR" };
    let left = table(&["HOTTEST PREFIXES", "CHANGES/S"], &hottest);
    let right = table(&[title, "KEYS", "SIZE"], &largest);
    let width = left.iter().map(|line| line.width()).max().unwrap_or(0) + 4;
    let empty = String::new();
    (0..left.len().max(right.len()))
        .map(|at| {
            let (left, right) = (left.get(at).unwrap_or(&empty), right.get(at).unwrap_or(&empty));
            format!("{}{right}", padded_right(left, width)).trim_end().to_owned()
        })
        .collect()
}

/// Columns two spaces apart, the first to the left and the others to the right.
fn table<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> Vec<String> {
    let header = header.map(ToOwned::to_owned);
    let all = || std::iter::once(&header).chain(rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| all().map(|row| row[column].width()).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 {
                padded_right(cell, width)
            } else {
                format!("{}{cell}", " ".repeat(width - cell.width()))
            }
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    all().map(line).collect()
}

fn padded_right(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// Keeps what fits.
fn cut(line: &mut String, columns: usize) {
    let mut used = 0;
    let end = line.char_indices().find(|(_, c)| {
        used += c.width().unwrap_or(0);
        used > columns
    });
    if let Some((end, _)) = end {
        line.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::Size;
    use super::*;

    #[test]
    fn tables_line_up_with_wide_letters() {
        let rows = [["世界".to_owned(), "1".to_owned()], ["x".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["KEY", "N"], &rows), ["KEY    N", "世界   1", "x     22"]);
    }

    #[test]
    fn prefixes_stand_side_by_side() {
        let prefixes = Prefixes {
            hottest: vec![(b"/a/".to_vec(), 2.0)],
            largest: vec![
                (b"/b/".to_vec(), Size { keys: 3, bytes: 2_000 }),
                (b"/a/".to_vec(), Size { keys: 1, bytes: 5 }),
            ],
            is_complete: true,
        };
        assert_eq!(
            prefix_lines(&prefixes, 10),
            [
                "HOTTEST PREFIXES  CHANGES/S    LARGEST PREFIXES  KEYS    SIZE",
                "/a/                     2.0    /b/                  3  2.0 kB",
                "                               /a/                  1     5 B",
            ]
        );
        assert_eq!(prefix_lines(&prefixes, 1).len(), 2);
    }

    #[test]
    fn lines_are_cut_between_letters() {
        let mut line = "a世界b".to_owned();
        cut(&mut line, 4);
        assert_eq!(line, "a世");
        cut(&mut line, 80);
        assert_eq!(line, "a世");
    }
}
