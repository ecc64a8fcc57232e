//! Tables: `-w table`.

/// Draws a box of light lines: header centred, cells to the right.
pub fn draw<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].as_str());
        cells.chain([header[column]]).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let rule = |left: &str, middle: &str, right: &str| {
        let lines = widths.map(|width| "─".repeat(width + 2));
        format!("{left}{}{right}\n", lines.join(middle))
    };
    let line = |cells: [String; N]| format!("│ {} │\n", cells.join(" │ "));
    let mut table = rule("┌", "┬", "┐");
    table += &line(std::array::from_fn(|column| format!("{:^1$}", header[column], widths[column])));
    table += &rule("├", "┼", "┤");
    for row in rows {
        table +=
            &line(std::array::from_fn(|column| format!("{:>1$}", row[column], widths[column])));
    }
    table + &rule("└", "┴", "┘")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_light_boxes() {
        let rows = [
            ["8211f1d0f64f3269", "started", "n1", "http://h1:2380", "http://h1:2379", "false"]
                .map(str::to_owned),
            ["1", "unstarted", "", "http://h2:2380", "", "true"].map(str::to_owned),
        ];
        let expected = "\
┌──────────────────┬───────────┬──────┬────────────────┬────────────────┬────────────┐
│        ID        │  STATUS   │ NAME │   PEER ADDRS   │  CLIENT ADDRS  │ IS LEARNER │
├──────────────────┼───────────┼──────┼────────────────┼────────────────┼────────────┤
│ 8211f1d0f64f3269 │   started │   n1 │ http://h1:2380 │ http://h1:2379 │      false │
│                1 │ unstarted │      │ http://h2:2380 │                │       true │
└──────────────────┴───────────┴──────┴────────────────┴────────────────┴────────────┘
";
        assert_eq!(
            draw(&["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"], &rows),
            expected
        );
    }

    #[test]
    fn odd_space_goes_to_the_right_of_the_header() {
        let rows = [["902327963".to_owned()]];
        assert_eq!(
            draw(&["HASH"], &rows),
            "┌───────────┐\n│   HASH    │\n├───────────┤\n│ 902327963 │\n└───────────┘\n"
        );
    }
}
