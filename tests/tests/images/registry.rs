//! A small registry on 127.0.0.1 that serves one OCI layout, and misbehaves as it is told to.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// One request: path with query, and the value of `Authorization`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

/// What to answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) fault: Fault,
}

/// How an answer goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    None,
    /// The connection closes after so many bytes of the body.
    CutAfter(usize),
    /// Nothing more comes after so many bytes, and the connection stays open.
    SilentAfter(usize),
    /// One byte every 20 ms.
    Drip,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            fault: Fault::None,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }
}

type Behaviour = dyn Fn(&Asked) -> Option<Answer> + Send + Sync;

/// The running registry; it stops on drop.
pub(crate) struct Registry {
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Registry {
    /// Serves `layout` under any repository name and tag; what `behaviour` answers comes first. It gets the address.
    pub(crate) fn start<B>(layout: PathBuf, behaviour: impl FnOnce(&str) -> B) -> Self
    where
        B: Fn(&Asked) -> Option<Answer> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let behaviour: Arc<Behaviour> = Arc::new(behaviour(&address));
        let (asked, is_stopping) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::<AtomicBool>::default());
        let (log, stop) = (asked.clone(), is_stopping.clone());
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (layout, behaviour, log, stop) = (layout.clone(), behaviour.clone(), log.clone(), stop.clone());
                connections.push(std::thread::spawn(move || {
                    let asked = read(&stream);
                    log.lock().unwrap().push(asked.clone());
                    let answer = behaviour(&asked).unwrap_or_else(|| serve(&layout, &asked.path));
                    // The client may have gone; that is what some tests are about.
                    let _ = write(&stream, &answer, &stop);
                    let _ = stream.shutdown(Shutdown::Both);
                }));
            }
            connections
                .into_iter()
                .for_each(|connection| connection.join().unwrap());
        });
        Self {
            address,
            asked,
            is_stopping,
            thread: Some(thread),
        }
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How many requests had this in their path.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path.contains(part)).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn read(stream: &TcpStream) -> Asked {
    let mut lines = BufReader::new(stream.take(64 << 10)).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let headers: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let authorization = headers.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("authorization")
            .then(|| value.trim().to_owned())
    });
    Asked {
        path: request.split(' ').nth(1).unwrap_or_default().to_owned(),
        authorization,
    }
}

fn write(mut stream: &TcpStream, answer: &Answer, stop: &AtomicBool) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| name == "content-length") {
        head += &format!("content-length: {}\r\n", answer.body.len());
    }
    answer
        .headers
        .iter()
        .for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all((head + "\r\n").as_bytes())?;
    match answer.fault {
        Fault::None => stream.write_all(&answer.body),
        Fault::CutAfter(count) => stream.write_all(&answer.body[..count]),
        Fault::SilentAfter(count) => {
            stream.write_all(&answer.body[..count])?;
            stream.set_read_timeout(Some(Duration::from_millis(50)))?;
            while !stop.load(Ordering::Relaxed) && !matches!(stream.read(&mut [0]), Ok(0)) {}
            Ok(())
        }
        Fault::Drip => {
            for byte in answer.body.iter().take_while(|_| !stop.load(Ordering::Relaxed)) {
                std::thread::sleep(Duration::from_millis(20));
                stream.write_all(&[*byte])?;
            }
            Ok(())
        }
    }
}

/// `/v2/NAME/manifests/REFERENCE` and `/v2/NAME/blobs/DIGEST` from a layout.
pub(crate) fn serve(layout: &Path, path: &str) -> Answer {
    let blob = |digest: &str| fs::read(layout.join("blobs").join(digest.replace(':', "/"))).ok();
    let mut parts = path.rsplit('/');
    let (reference, kind) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let found = match (kind, reference.contains(':')) {
        ("blobs" | "manifests", true) => blob(reference).map(|body| (body, "application/octet-stream".to_owned())),
        ("manifests", false) => {
            let index: serde_json::Value =
                serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
            let entry = &index["manifests"][0];
            let media_type = entry["mediaType"].as_str().unwrap().to_owned();
            blob(entry["digest"].as_str().unwrap()).map(|body| (body, media_type))
        }
        _ => None,
    };
    match found {
        Some((body, media_type)) => Answer::new(200, body).header("content-type", media_type),
        None => Answer::new(
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        ),
    }
}
