//! Images: list, load from a stream, pull.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::Api;
use super::answer::{Answer, Problem, json, parameter, read_json};
use super::message::{ImageView, PullRequest};
use crate::image::{Image, PullOptions, Reference, Source};

/// The largest archive that is taken.
const ARCHIVE_LIMIT: u64 = 64 << 30;

pub(super) fn list(api: &Api) -> Vec<ImageView> {
    api.node.images.list().iter().map(view).collect()
}

pub(super) async fn load(api: &Api, request: Request<Incoming>) -> Result<Answer, Problem> {
    let tag = parameter(&request, "tag").map(|tag| reference(&tag)).transpose()?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(forward(request.into_body(), sender));
    let source = Source::Stream(Box::new(Chunks {
        receiver,
        chunk: Bytes::new(),
    }));
    let images = api
        .node
        .images
        .load(source, tag.as_ref())
        .await
        .map_err(|error| Problem::invalid(chain(error)))?;
    api.node.new_images.send_replace(());
    json(&images.iter().map(view).collect::<Vec<_>>())
}

pub(super) async fn pull(api: &Api, request: Request<Incoming>) -> Result<Answer, Problem> {
    let wanted: PullRequest = read_json(request.into_body()).await?;
    let options = PullOptions {
        insecure_http: wanted.insecure,
        ..PullOptions::default()
    };
    let image = api
        .node
        .images
        .pull(&reference(&wanted.image)?, &options)
        .await
        .map_err(Problem::failed)?;
    api.node.new_images.send_replace(());
    json(&view(&image))
}

fn view(image: &Arc<Image>) -> ImageView {
    let reference = &image.reference;
    ImageView {
        repository: reference.name(),
        tag: reference.tag().unwrap_or_default().into(),
        id: image.id.to_string(),
        digest: image.digest.to_string(),
        size: image.size,
    }
}

fn reference(name: &str) -> Result<Reference, Problem> {
    name.parse().map_err(|error| Problem::invalid(chain(error)))
}

fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

/// Hands the body on in the pace at which it is read.
async fn forward(mut body: Incoming, sender: mpsc::Sender<io::Result<Bytes>>) {
    let mut total = 0_u64;
    while let Some(frame) = body.frame().await {
        let chunk = match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => {
                total = total.saturating_add(data.len() as u64);
                if total > ARCHIVE_LIMIT {
                    Err(io::Error::other("the archive is larger than 64 GiB"))
                } else {
                    Ok(data)
                }
            }
            Ok(Err(_)) => continue,
            Err(error) => Err(io::Error::other(error)),
        };
        let is_last = chunk.is_err();
        if sender.send(chunk).await.is_err() || is_last {
            return;
        }
    }
}

/// The body as something to read from, on a thread where that may block.
struct Chunks {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
