//! A private apt directory for one Debian suite: lists and packages of another release, without root and without
//! touching the machine's own apt.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::command;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";

/// The directory and the suite it is for.
#[derive(Debug)]
pub(crate) struct AptDir {
    dir: PathBuf,
    suite: String,
}

impl AptDir {
    /// Makes the directory and fetches the suite's lists. With `ORLOP_DEBIAN_MIRROR` from there.
    pub(crate) fn open(dir: &Path, suite: &str) -> anyhow::Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(part)).with_context(|| format!("make {}", dir.join(part).display()))?;
        }
        let mirror = std::env::var("ORLOP_DEBIAN_MIRROR").unwrap_or_else(|_| MIRROR.to_owned());
        // Backports stand on their release.
        let base = suite.strip_suffix("-backports");
        let source = |suite: &str| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        let sources: String = base.into_iter().chain([suite]).map(source).collect();
        std::fs::write(dir.join("sources.list"), sources).context("write sources.list")?;
        let apt = Self {
            dir: dir.to_owned(),
            suite: suite.to_owned(),
        };
        command::output(apt.apt_get().arg("update"))?;
        Ok(apt)
    }

    /// The packages that installing `packages` would bring, by name.
    pub(crate) fn closure(&self, packages: &[&str]) -> anyhow::Result<Vec<String>> {
        let targets = packages.iter().map(|package| format!("{package}/{}", self.suite));
        let mut command = self.apt_get();
        command
            .args(["--simulate", "--no-install-recommends", "install"])
            .args(targets);
        let plan = command::output(&mut command)?;
        let names = plan
            .lines()
            .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Downloads packages, from the suite where it has them, and unpacks them below `target`.
    pub(crate) fn unpack(&self, packages: &[String], target: &Path) -> anyhow::Result<()> {
        let debs = self.dir.join("debs");
        std::fs::create_dir_all(&debs).context("make a directory for packages")?;
        command::output(self.apt_get().arg("download").args(packages).current_dir(&debs))?;
        for entry in std::fs::read_dir(&debs).context("list the packages")? {
            let deb = entry.context("list the packages")?.path();
            command::output(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(target))?;
        }
        Ok(())
    }

    fn apt_get(&self) -> Command {
        let mut command = Command::new("apt-get");
        let mut option = |name: &str, value: &str| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        let path = |part: &str| self.dir.join(part).display().to_string();
        option("Dir::Etc::sourcelist", &path("sources.list"));
        option("Dir::Etc::sourceparts", "/dev/null");
        option("Dir::State::lists", &path("lists"));
        option("Dir::State::status", "/dev/null");
        option("Dir::Cache", &path("cache"));
        // Root's apt would drop to a user that may not write here.
        option("APT::Sandbox::User", "");
        option("APT::Default-Release", &self.suite);
        option("Acquire::Retries", "3");
        option("Acquire::Languages", "none");
        option("APT::Update::Post-Invoke-Success::", "true");
        command
    }
}
