//! `demo-image DIR`: writes the image of the demo, for `orlop load DIR`.
#![forbid(unsafe_code)]

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).context("usage: demo-image DIR")?;
    tests::image::busybox(dir.as_ref())?;
    Ok(())
}
