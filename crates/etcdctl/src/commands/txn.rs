//! `txn`: reads a transaction from stdin and runs it.
//!
//! The input has three parts, each ended by an empty line: conditions, operations for when all of them hold, and
//! operations for when one does not.
//!
//! ```text
//! mod("key1") > "0"
//!
//! put key1 "overwritten"
//!
//! put key1 "created"
//! put key2 'another key'
//!
//! ```

use retcd_api::etcdserverpb::compare::{CompareResult, TargetUnion};
use retcd_api::etcdserverpb::{Compare, TxnRequest};
use retcd_client::{Txn, compare};

use super::{del, get, put};
use crate::failure;
use crate::input::Lines;
use crate::print::{Reply, write_out};
use crate::session::Session;
use crate::words;
use retcd_command_line::go::number::parse_int;
use retcd_command_line::go::quote::{quote, unquote_prefix};
use retcd_command_line::{Action, Command, Flag, Invocation, parse};
use retcd_command_line::{Exit, Failure};

pub(super) const COMMAND: Command = Command {
    operands: "[options]",
    short: "Txn processes all the requests in one transaction",
    long: "Reads requests from standard input and applies them as one atomic transaction.\n\n\
           The input has three parts, each followed by an empty line:\n\
           1) conditions, one a line\n\
           2) requests to apply if all conditions hold\n\
           3) requests to apply if any condition does not hold\n\n\
           Example:\n\n  \
           mod(\"key1\") > \"0\"\n\n  \
           put key1 \"overwritten\"\n\n  \
           put key1 \"created\"\n  \
           put key2 \"another key\"\n\n\
           A condition compares version, create, mod, value or lease of a key (=, !=, <, >) with a quoted operand.",
    flags: &[Flag::bool("interactive", "ask for each part").short('i')],
    ..Command::new("txn", "kv", Action::Run(run))
};

fn run(invocation: &Invocation) -> Result<(), Failure> {
    if !invocation.args.is_empty() {
        return Err(Failure::bad_args("txn command does not accept argument"));
    }
    let session = Session::open(invocation)?;
    let is_interactive = invocation.flags.bool("interactive");
    let mut lines = Lines::of_stdin(is_interactive);
    let request = read(&mut || lines.next(), is_interactive)?;
    drop(lines);
    let reply = session
        .block_on(session.patient_client().txn(request))
        .map_err(|error| failure::request(&error))?;
    session.print(&Reply::Txn(&reply))
}

/// Where lines come from, without their ends; `None` at the end of the input.
type NextLine<'a> = dyn FnMut() -> Result<Option<Vec<u8>>, Failure> + 'a;

fn read(input: &mut NextLine<'_>, is_interactive: bool) -> Result<TxnRequest, Failure> {
    let prompt = |text: &str| if is_interactive { write_out(text.as_bytes()) } else { Ok(()) };
    let mut txn = Txn::new();
    prompt("compares:\n")?;
    while let Some(line) = read_line(input)? {
        txn = txn.when(condition(&line)?);
    }
    prompt("success requests (get, put, del):\n")?;
    while let Some(line) = read_line(input)? {
        txn = operation(txn, &line)?;
    }
    prompt("failure requests (get, put, del):\n")?;
    txn = txn.otherwise();
    while let Some(line) = read_line(input)? {
        txn = operation(txn, &line)?;
    }
    Ok(txn.into_request())
}

/// The next line without the spaces around it; `None` for an empty one, which ends a part.
fn read_line(input: &mut NextLine<'_>) -> Result<Option<Vec<u8>>, Failure> {
    let line = input()?.ok_or_else(|| invalid("EOF"))?;
    let line = line.trim_ascii().to_vec();
    Ok(Some(line).filter(|line| !line.is_empty()))
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Exit::InvalidInput, message)
}

/// Reads `target("key") operator "operand"`.
fn condition(line: &[u8]) -> Result<Compare, Failure> {
    let shown = String::from_utf8_lossy(line);
    let Some(open) = line.iter().position(|byte| *byte == b'(') else {
        return Err(invalid(format!("malformed comparison: {shown}")));
    };
    let (target, rest) = (String::from_utf8_lossy(&line[..open]), &line[open + 1..]);
    let parts = parts(rest).map_err(|(key, operator)| {
        let (key, operator) = (quote(&key), String::from_utf8_lossy(&operator).into_owned());
        invalid(format!("malformed comparison: {shown}; got {target}({key}) {operator} \"\""))
    })?;
    let number = || {
        parse_int(&String::from_utf8_lossy(&parts.operand), 10)
            .map_err(|_| invalid(format!("invalid txn compare request: {shown}")))
    };
    let operand = match target.as_ref() {
        "ver" | "version" => TargetUnion::Version(number()?),
        "c" | "create" => TargetUnion::CreateRevision(number()?),
        "m" | "mod" => TargetUnion::ModRevision(number()?),
        "lease" => TargetUnion::Lease(number()?),
        "val" | "value" => TargetUnion::Value(parts.operand.clone().into()),
        _ => {
            return Err(invalid(format!(
                "malformed comparison: {shown} (unknown target {target})"
            )));
        }
    };
    let result = match parts.operator {
        b"=" => CompareResult::Equal,
        b"!=" => CompareResult::NotEqual,
        b">" => CompareResult::Greater,
        b"<" => CompareResult::Less,
        other => {
            let operator = String::from_utf8_lossy(other);
            return Err(invalid(format!(
                "malformed comparison: {shown} (unknown operator {operator})"
            )));
        }
    };
    Ok(compare(parts.key, result, operand))
}

struct Parts<'a> {
    key: Vec<u8>,
    operator: &'a [u8],
    operand: Vec<u8>,
}

/// Reads what follows the parenthesis; on failure, as much of key and operator as could be read.
fn parts(input: &[u8]) -> Result<Parts<'_>, (Vec<u8>, Vec<u8>)> {
    let (key, rest) =
        unquote_prefix(input.trim_ascii_start()).ok_or_else(<(Vec<u8>, Vec<u8>)>::default)?;
    let Some(rest) = rest.strip_prefix(b")") else {
        return Err((key, Vec::new()));
    };
    // The operator reaches up to the next space, so there must be one on both sides.
    let trimmed = rest.trim_ascii_start();
    if trimmed.len() == rest.len() {
        return Err((key, Vec::new()));
    }
    let end = trimmed.iter().position(u8::is_ascii_whitespace).unwrap_or(trimmed.len());
    let (operator, rest) = trimmed.split_at(end);
    match unquote_prefix(rest.trim_ascii_start()) {
        Some((operand, _)) => Ok(Parts { key, operator, operand }),
        None => Err((key, operator.to_vec())),
    }
}

/// Reads `get ...`, `put ...` or `del ...`.
fn operation(txn: Txn, line: &[u8]) -> Result<Txn, Failure> {
    let shown = String::from_utf8_lossy(line);
    let words = words::split(line)?;
    let [name, args @ ..] = words.as_slice() else {
        return Err(invalid(format!("invalid txn compare request: {shown}")));
    };
    if args.is_empty() {
        return Err(invalid(format!("invalid txn compare request: {shown}")));
    }
    let not_a_request = || invalid(format!("invalid txn request: {shown}"));
    let parsed = |command: &Command| parse(command.flags, args).map_err(|_| not_a_request());
    // The names may be shortened, as on the command line.
    let is = |full: &str| !name.is_empty() && full.as_bytes().starts_with(name);
    if is(get::COMMAND.name) {
        let parsed = parsed(&get::COMMAND)?;
        Ok(txn.range(get::request(&parsed.flags, &parsed.args)?))
    } else if is(put::COMMAND.name) {
        let parsed = parsed(&put::COMMAND)?;
        // Stdin is where this line came from, so it cannot hold the value.
        Ok(txn.put(put::request(&parsed.flags, &parsed.args, || None)?))
    } else if is(del::COMMAND.name) {
        let parsed = parsed(&del::COMMAND)?;
        Ok(txn.delete_range(del::request(&parsed.flags, &parsed.args)?))
    } else {
        Err(not_a_request())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use retcd_api::etcdserverpb::request_op::Request;

    fn read_text(text: &str) -> Result<TxnRequest, Failure> {
        // A last line that nothing ends is not read.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut lines = whole.lines();
        read(&mut || Ok(lines.next().map(|line| line.as_bytes().to_vec())), false)
    }

    fn error_of(line: &str) -> Failure {
        condition(line.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_transaction_has_three_parts() {
        let request = read_text(
            "mod(\"k\") > \"0\"\n\nput k \"a b\"\nget k --prefix\n  \ndel k --prev-kv\n\n",
        )
        .unwrap();
        assert_eq!(
            (request.compare.len(), request.success.len(), request.failure.len()),
            (1, 2, 1)
        );
        let Some(Request::RequestPut(put)) = &request.success[0].request else {
            panic!("the first is a put")
        };
        assert_eq!((put.key.as_ref(), put.value.as_ref()), (&b"k"[..], &b"a b"[..]));
        let Some(Request::RequestRange(range)) = &request.success[1].request else {
            panic!("the second is a get")
        };
        assert_eq!(range.range_end.as_ref(), b"l");
    }

    #[test]
    fn conditions_have_short_and_long_targets() {
        let parsed = |line: &str| {
            let compare = condition(line.as_bytes()).unwrap();
            (compare.result(), compare.target_union.unwrap())
        };
        assert_eq!(parsed(r#"ver("k") = "1""#), (CompareResult::Equal, TargetUnion::Version(1)));
        assert_eq!(
            parsed(r#"create("k") != "2""#),
            (CompareResult::NotEqual, TargetUnion::CreateRevision(2))
        );
        assert_eq!(parsed(r#"m("k") < "3""#), (CompareResult::Less, TargetUnion::ModRevision(3)));
        assert_eq!(
            parsed(r#"lease("k") > "-4""#),
            (CompareResult::Greater, TargetUnion::Lease(-4))
        );
        assert_eq!(
            parsed(r#"val("k") = "a\tb""#),
            (CompareResult::Equal, TargetUnion::Value("a\tb".into()))
        );
        assert_eq!(condition(br#"value("\xff(") = `x`"#).unwrap().key.as_ref(), b"\xff(");
    }

    #[test]
    fn malformed_conditions_are_explained() {
        let said =
            |line: &str, message: &str| assert_eq!(error_of(line), invalid(message), "{line}");
        said("nonsense", "malformed comparison: nonsense");
        said(
            r#"mod ("k") > "0""#,
            r#"malformed comparison: mod ("k") > "0" (unknown target mod )"#,
        );
        said(r#"mod("k")>"0""#, r#"malformed comparison: mod("k")>"0"; got mod("k")  """#);
        said(r#"mod("k") > 0"#, r#"malformed comparison: mod("k") > 0; got mod("k") > """#);
        said(r#"mod("k") > "x""#, r#"invalid txn compare request: mod("k") > "x""#);
        said(
            r#"mod("k") >= "0""#,
            r#"malformed comparison: mod("k") >= "0" (unknown operator >=)"#,
        );
    }

    #[test]
    fn input_must_be_complete() {
        assert_eq!(read_text("\n\n").unwrap_err(), invalid("EOF"));
        assert_eq!(read_text("\nput k v\n\nget k").unwrap_err(), invalid("EOF"));
        assert_eq!(
            read_text("\nfrob x\n\n\n").unwrap_err(),
            invalid("invalid txn request: frob x")
        );
        assert_eq!(
            read_text("\nget\n\n\n").unwrap_err(),
            invalid("invalid txn compare request: get")
        );
        assert_eq!(
            read_text("\nget k --nope\n\n\n").unwrap_err(),
            invalid("invalid txn request: get k --nope")
        );
    }
}
