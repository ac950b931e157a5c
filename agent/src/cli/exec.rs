//! `orlop exec`: runs a command in a container, with its streams here; the command's exit code is ours.

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use tokio::io::AsyncWrite;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::client::Client;
use super::terminal;
use crate::server::frame::{self, Channel, Outcome};
use crate::server::message::ExecRequest;

/// Bytes read from stdin at a time.
const CHUNK: usize = 16 * 1024;

/// Run a command in a container
#[derive(Args, Debug)]
pub(super) struct Exec {
    /// The pod
    pod: String,
    /// The container; needed where the pod has more than one
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    #[command(flatten)]
    namespace: super::Namespace,
    /// Pass stdin on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Exec {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let stdin = self.stdin;
        let tty = self.tty && terminal::is_present();
        if self.tty && !tty {
            eprintln!("Unable to use a TTY - input is not a terminal");
        }
        let request = ExecRequest {
            namespace: self.namespace.namespace,
            pod: self.pod,
            container: self.container,
            command: self.command,
            stdin,
            tty,
        };
        let stream = client.upgrade("/v1/exec", "orlop-exec", &request).await?;
        let raw = if tty {
            Some(terminal::Raw::enter().context("make the terminal raw")?)
        } else {
            None
        };
        let (mut from_agent, to_agent) = tokio::io::split(stream);
        let sender = tokio::spawn(send(to_agent, stdin, tty));
        let outcome = receive(&mut from_agent).await;
        sender.abort();
        drop(raw);
        match outcome? {
            Outcome::Exited(0) => Ok(ExitCode::SUCCESS),
            Outcome::Exited(code) => {
                eprintln!("command terminated with exit code {code}");
                Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
            }
            Outcome::Failed(message) => bail!(message),
        }
    }
}

async fn receive(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> anyhow::Result<Outcome> {
    while let Some((channel, payload)) = frame::read(stream).await? {
        match channel {
            Channel::Stdout => write(std::io::stdout().lock(), &payload)?,
            Channel::Stderr => write(std::io::stderr().lock(), &payload)?,
            Channel::Outcome => return serde_json::from_slice(&payload).context("read how the command ended"),
            Channel::Stdin | Channel::Resize => bail!("the agent sent a frame that only it may receive"),
        }
    }
    bail!("the agent closed the connection before the command ended")
}

fn write(mut out: impl Write, payload: &[u8]) -> std::io::Result<()> {
    out.write_all(payload)?;
    out.flush()
}

/// Sends stdin and the terminal's sizes until the other side has ended.
async fn send(mut out: impl AsyncWrite + Unpin, stdin: bool, tty: bool) -> anyhow::Result<()> {
    let mut input = if stdin { read_stdin() } else { mpsc::channel(1).1 };
    let mut resized = signal(SignalKind::window_change())?;
    let mut open = stdin;
    if tty {
        send_size(&mut out).await?;
    }
    loop {
        tokio::select! {
            chunk = input.recv(), if open => {
                open = chunk.is_some();
                frame::write(&mut out, Channel::Stdin, &chunk.unwrap_or_default()).await?;
            }
            Some(()) = resized.recv(), if tty => send_size(&mut out).await?,
            else => return std::future::pending().await,
        }
    }
}

async fn send_size(out: &mut (impl AsyncWrite + Unpin)) -> anyhow::Result<()> {
    if let Some(size) = terminal::size() {
        frame::write(out, Channel::Resize, &serde_json::to_vec(&size)?).await?;
    }
    Ok(())
}

/// Reads stdin on a thread of its own: a blocked read of a terminal can't be given up, and must not hold up the exit.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        while let Ok(read @ 1..) = std::io::stdin().lock().read(&mut buffer) {
            if sender.blocking_send(buffer[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}
