//! Registries over TLS: whom the puller believes, and what it says when it doesn't.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use agent::image::{Image, PullOptions, Store};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tests::Scratch;

use super::registry::serve;
use super::{block_on, chain, name, open};

/// A certificate authority of the test's own.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Serves a layout over HTTPS; stops on drop.
struct Secure {
    address: String,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Secure {
    fn start(layout: PathBuf, issuer: &CertifiedIssuer<'_, KeyPair>, params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.clone().signed_by(&key, issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        let (config, listener) = (Arc::new(config.unwrap()), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap().to_string();
        let is_stopping = Arc::<AtomicBool>::default();
        let stop = is_stopping.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // A client that doesn't believe us hangs up.
                let _ = answer(
                    StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream),
                    &layout,
                );
            }
        });
        Self {
            address,
            is_stopping,
            thread: Some(thread),
        }
    }
}

fn answer(mut stream: StreamOwned<ServerConnection, TcpStream>, layout: &std::path::Path) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let answer = serve(layout, head.split(' ').nth(1).unwrap_or_default());
    let length = answer.body.len();
    write!(
        stream,
        "HTTP/1.1 {} x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n",
        answer.status
    )?;
    stream.write_all(&answer.body)?;
    stream.conn.send_close_notify();
    stream.flush()
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn pull(store: &Store, registry: &Secure, pem: &str) -> Result<Arc<Image>, String> {
    let options = PullOptions {
        ca_certificates: Some(pem.as_bytes().into()),
        ..PullOptions::default()
    };
    block_on(store.pull(&name(&format!("{}/app:1", registry.address)), &options)).map_err(chain)
}

#[test]
fn a_registry_is_believed_by_its_certificate_alone() {
    tests::require_root!();
    let scratch = Scratch::new("tls");
    let store = open(&scratch);
    let layout = tests::image::busybox(&scratch.path("layout")).unwrap();
    let (ours, theirs) = (authority(), authority());
    let right = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let wrong_name = CertificateParams::new(["registry.example".to_owned()]).unwrap();
    let mut expired = right.clone();
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);

    let registry = Secure::start(layout.clone(), &ours, &right);
    pull(&store, &registry, &ours.pem()).unwrap();

    for (issuer, params, expected) in [
        (&theirs, &right, "invalid peer certificate: "),
        (&ours, &wrong_name, "not valid for name \"127.0.0.1\""),
        (&ours, &expired, "certificate expired"),
    ] {
        let registry = Secure::start(layout.clone(), issuer, params);
        let error = pull(&store, &registry, &ours.pem()).unwrap_err();
        assert!(error.contains(expected), "expected {expected:?} in {error:?}");
    }
    let error = pull(&store, &registry, "no certificates").unwrap_err();
    assert!(error.contains("no CA certificates"), "{error}");
    let error = pull(
        &store,
        &registry,
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    )
    .unwrap_err();
    assert!(error.contains("read the CA certificates for the registry"), "{error}");
}

#[test]
fn plain_http_is_not_spoken_to_a_registry_that_was_not_said_to_speak_it() {
    let scratch = Scratch::new("tls-only");
    let store = open(&scratch);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = name(&format!("{}/app:1", listener.local_addr().unwrap()));
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 3];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(b"HTTP/1.1 400 this is plain HTTP\r\n\r\n").unwrap();
        hello
    });
    let options = PullOptions {
        ca_certificates: Some(authority().pem().as_bytes().into()),
        ..PullOptions::default()
    };
    let error = chain(block_on(store.pull(&reference, &options)).unwrap_err());
    assert!(error.contains("InvalidContentType"), "{error}");
    assert_eq!(
        server.join().unwrap(),
        [0x16, 3, 1],
        "a TLS handshake, and nothing in the clear"
    );
}
