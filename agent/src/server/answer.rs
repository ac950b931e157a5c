//! Answers and problems of the API, and how request bodies are read: each within a limit.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::Failure;

/// An answer with its body.
pub(super) type Answer = Response<Body>;
/// An answer's body.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The largest JSON request.
const JSON_LIMIT: usize = 1 << 20;

/// A request that gets no good answer.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    message: String,
}

impl Problem {
    pub(super) fn not_found(message: impl Into<String>) -> Problem {
        Problem {
            status: StatusCode::NOT_FOUND,
            message: message.into(),
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Problem {
        Problem {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
        }
    }

    pub(super) fn conflict(message: impl Into<String>) -> Problem {
        Problem {
            status: StatusCode::CONFLICT,
            message: message.into(),
        }
    }

    pub(super) fn failed(error: impl Into<anyhow::Error>) -> Problem {
        Problem {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: format!("{:#}", error.into()),
        }
    }
}

/// Makes a problem an answer like any other.
pub(super) fn finish(result: Result<Answer, Problem>) -> Answer {
    result.unwrap_or_else(|problem| {
        let body = serde_json::to_vec(&Failure { error: problem.message }).unwrap_or_default();
        with_type("application/json", problem.status, full(body))
    })
}

pub(super) fn json(value: &impl Serialize) -> Result<Answer, Problem> {
    let bytes = serde_json::to_vec(value).map_err(Problem::failed)?;
    Ok(with_type("application/json", StatusCode::OK, full(bytes)))
}

pub(super) fn text(text: &'static str) -> Answer {
    with_type("text/plain", StatusCode::OK, full(text))
}

/// An answer whose body comes bit by bit.
pub(super) fn stream(body: Body) -> Answer {
    with_type("text/plain", StatusCode::OK, body)
}

pub(super) fn empty() -> Body {
    full("")
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn with_type(content_type: &'static str, status: StatusCode, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    answer
}

/// The request's body as JSON.
pub(super) async fn read_json<T: DeserializeOwned>(body: Incoming) -> Result<T, Problem> {
    let bytes = read(body, JSON_LIMIT).await?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::invalid(format!("read the request: {error}")))
}

/// The request's body, at most `limit` bytes of it.
pub(super) async fn read(body: Incoming, limit: usize) -> Result<Bytes, Problem> {
    let collected = Limited::new(body, limit).collect().await;
    let collected = collected.map_err(|error| Problem::invalid(format!("read the request: {error}")))?;
    Ok(collected.to_bytes())
}

/// A parameter of the request's query, percent-decoded.
pub(super) fn parameter<T>(request: &Request<T>, name: &str) -> Option<String> {
    let pairs = request
        .uri()
        .query()?
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    pairs
        .into_iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| decode(value))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |bytes: &[u8]| u8::from_str_radix(std::str::from_utf8(bytes).ok()?, 16).ok();
        let (byte, after) = match (first, tail.split_at_checked(2)) {
            (b'%', Some((digits, after))) if hex(digits).is_some() => (hex(digits).unwrap_or_default(), after),
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_and_decoded() {
        let request = Request::builder()
            .uri("/v1/apply?a=1&file=%2Ftmp%2Fa%20b.yaml")
            .body(())
            .unwrap();
        assert_eq!(parameter(&request, "file").as_deref(), Some("/tmp/a b.yaml"));
        assert_eq!(parameter(&request, "b"), None);
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%C3%A9"), "%zzé");
    }
}
