//! Fetching a page of an endpoint's HTTP server, such as its metrics.
//!
//! One request on one connection in HTTP/1.0, whose answer ends with the connection: nothing here needs more.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// The body of `path` at `endpoint`, which is written as for `--endpoints`.
///
/// # Errors
/// In words: no connection, no answer in time, or another status than 200.
pub(crate) async fn get(endpoint: &str, path: &str, timeout: Duration) -> Result<String, String> {
    let fetched = tokio::time::timeout(timeout, fetch(endpoint, path)).await;
    fetched.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
}

async fn fetch(endpoint: &str, path: &str) -> Result<String, String> {
    if let Some(path_of_socket) = endpoint.strip_prefix("unix:") {
        let path_of_socket = path_of_socket.strip_prefix("//").unwrap_or(path_of_socket);
        let stream = UnixStream::connect(path_of_socket).await;
        return ask(stream.map_err(|error| error.to_string())?, "localhost", path).await;
    }
    if endpoint.starts_with("https://") || endpoint.starts_with("unixs:") {
        return Err(format!("{endpoint} is encrypted, and its pages are only read without TLS"));
    }
    let address = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/');
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    ask(stream, address, path).await
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
) -> Result<String, String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: text/plain\r\n\r\n");
    let mut answer = Vec::new();
    let exchanged = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut answer).await
    };
    exchanged.await.map_err(|error| error.to_string())?;
    body(&String::from_utf8_lossy(&answer)).map(ToOwned::to_owned)
}

fn body(answer: &str) -> Result<&str, String> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer in HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(body),
        _ => Err(format!("the answer was {status}")),
    }
}

/// The sum of a metric over all its labels, in Prometheus's text format; `None` when it is not there.
pub(crate) fn metric(page: &str, name: &str) -> Option<f64> {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
        value.strip_prefix(' ')?.split(' ').next()?.parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_labels() {
        let page = "# HELP a_total a\n# TYPE a_total counter\na_total{x=\"1\",y=\"}\"} 2\na_total{x=\"2\"} 3.5\n\
                    a_total_other 9\nb 1.5e+08 1700000000\n";
        assert_eq!(metric(page, "a_total"), Some(5.5));
        assert_eq!(metric(page, "b"), Some(1.5e8));
        assert_eq!(metric(page, "c"), None);
    }

    #[test]
    fn only_good_answers_have_a_body() {
        assert_eq!(body("HTTP/1.0 200 OK\r\nA: b\r\n\r\nx\r\n\r\ny"), Ok("x\r\n\r\ny"));
        assert_eq!(
            body("HTTP/1.1 404 Not Found\r\n\r\n"),
            Err("the answer was HTTP/1.1 404 Not Found".to_owned())
        );
        assert!(body("nonsense").is_err());
    }
}
