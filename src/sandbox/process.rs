//! The operating system's part of a sandbox: finding binaries, running them as the right user, and ending only what
//! was started.

use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::time::sleep;

use super::{Kind, POLL, owner};

/// A server that is told to end gets this long to write what it holds in memory; then it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of a server's log goes into an error message.
const LOG_TAIL_BYTES: u64 = 2000;

/// The binaries of one engine.
#[derive(Clone, Debug)]
pub struct Installation {
    pub server: PathBuf,
    /// `initdb` or `mariadb-install-db`.
    pub initializer: PathBuf,
    pub version: String,
}

/// The folders that programs are looked for in: PATH first, then `more`, then those of servers, which the PATH of a
/// plain user often lacks.
pub fn search_path(more: Vec<PathBuf>) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/libexec"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).chain(usual).filter(|dir| dir.is_absolute()).collect()
}

/// The first of the folders that has a program of this name.
pub fn find(dirs: &[PathBuf], program: &str) -> Option<PathBuf> {
    dirs.iter().map(|dir| dir.join(program)).find(|path| {
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

/// The version number in what `program --version` prints: the first word that begins with a digit, up to its letters.
pub fn version(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    version_in(&text).with_context(|| format!("{} --version gives no version: {text}", program.display()))
}

fn version_in(text: &str) -> Option<String> {
    let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    Some(word[..end].trim_end_matches('.').to_owned())
}

/// Who a server runs as.
pub struct Account {
    /// User and group, when root starts a server and must not run it itself.
    switch: Option<(u32, u32)>,
}

/// Whether a file made in this folder is root's: whether we are root.
pub fn is_root(dir: &Path) -> Result<bool> {
    Ok(owner(&dir.join("lock"))? == 0)
}

/// The user for a server whose folder this process has just made or made before.
pub fn account(kind: Kind, dir: &Path) -> Result<Account> {
    let sandbox = dir.parent().unwrap_or(dir);
    if !is_root(sandbox)? {
        return Ok(Account { switch: None });
    }
    let user = kind.system_user();
    let ids = (id("-u", user)?, id("-g", user)?);
    for ancestor in dir.ancestors() {
        let metadata = fs::metadata(ancestor)?;
        let shift = match () {
            _ if metadata.uid() == ids.0 => 6,
            _ if metadata.gid() == ids.1 => 3,
            _ => 0,
        };
        if metadata.mode() >> shift & 1 == 0 {
            bail!(
                "the server runs as the user {user}, who cannot enter {}: \
                 choose another folder with --dir, for instance /var/tmp/dms-local-sandbox",
                ancestor.display()
            );
        }
    }
    Ok(Account { switch: Some(ids) })
}

fn id(flag: &str, user: &str) -> Result<u32> {
    let output = Command::new("id").args([flag, user]).output().context("run id")?;
    if !output.status.success() {
        bail!("root does not run database servers itself, and there is no user {user}; its package makes one");
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

impl Account {
    /// Hands a file or folder to the server's user.
    pub fn own(&self, path: &Path, mode: u32) -> Result<()> {
        if let Some((user, group)) = self.switch {
            chown(path, Some(user), Some(group)).with_context(|| format!("chown {}", path.display()))?;
        }
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok(())
    }

    fn command(&self, program: &Path, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(dir).stdin(Stdio::null()).env("LC_ALL", "C").env("TZ", "UTC");
        // A server of its own does not take part in what the caller's environment says about databases.
        for (name, _) in std::env::vars_os() {
            if ["PG", "MYSQL", "MARIADB"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        if let Some((user, group)) = self.switch {
            command.uid(user).gid(group);
        }
        command
    }

    /// Runs a program to its end; its output is in the error if it fails.
    pub async fn run(&self, program: &Path, arguments: &[String], input: Option<File>, dir: &Path) -> Result<()> {
        let mut command = self.command(program, dir);
        command.args(arguments).stdin(input.map_or(Stdio::null(), Stdio::from));
        let output = tokio::process::Command::from(command)
            .output()
            .await
            .with_context(|| format!("run {}", program.display()))?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("{} failed, {}:\n{}", program.display(), output.status, String::from_utf8_lossy(&said).trim_end());
        }
        Ok(())
    }

    /// Starts a server that outlives this process and does not hear its terminal's Ctrl-C.
    pub fn spawn(&self, program: &Path, arguments: &[String], dir: &Path, log: &Log) -> Result<Child> {
        let mut command = self.command(program, dir);
        command.args(arguments).process_group(0).stdout(log.file.try_clone()?).stderr(log.file.try_clone()?);
        command.spawn().with_context(|| format!("run {}", program.display()))
    }
}

/// Whether this process serves the data folder: whether an argument on its command line names it. A process that has
/// ended but whose parent has not asked for its exit code has no command line.
pub fn serves(pid: u32, data_dir: &Path) -> bool {
    let data_dir = data_dir.to_string_lossy();
    command_line(pid).is_some_and(|arguments| {
        arguments.iter().any(|argument| argument.strip_prefix("--datadir=").unwrap_or(argument) == data_dir)
    })
}

#[cfg(target_os = "linux")]
fn command_line(pid: u32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(bytes.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect())
}

/// Where there is no `/proc`, `ps` prints the arguments with blanks between them.
#[cfg(not(target_os = "linux"))]
fn command_line(pid: u32) -> Option<Vec<String>> {
    let output = Command::new("ps").args(["-ww", "-o", "args=", "-p", &pid.to_string()]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}

/// Tells the server of this data folder to end and waits until it has; kills it if it does not.
pub async fn end(pid: u32, signal: &str, data_dir: &Path) -> Result<()> {
    for signal in [signal, "KILL"] {
        // The shell's own `kill`: the program of that name is not on every machine.
        let arguments = ["-c", "kill -s \"$1\" \"$2\"", "sh", signal, &pid.to_string()];
        let output = Command::new("sh").args(arguments).stdin(Stdio::null()).output().context("run sh")?;
        if !output.status.success() && serves(pid, data_dir) {
            bail!("signal process {pid}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if !serves(pid, data_dir) {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }
    bail!("process {pid} does not end")
}

/// The file a server writes its messages to, and where this start's messages begin.
pub struct Log {
    file: File,
    begin: u64,
}

impl Log {
    pub fn open(path: &Path) -> Result<Log> {
        let open = File::options().create(true).append(true).read(true).mode(0o644).open(path);
        let file = open.with_context(|| format!("open {}", path.display()))?;
        let begin = file.metadata()?.len();
        Ok(Log { file, begin })
    }

    /// The last messages since the server was started.
    pub fn tail(&self) -> String {
        let mut text = Vec::new();
        let mut file = &self.file;
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let from = self.begin.max(length.saturating_sub(LOG_TAIL_BYTES));
        let read = file.seek(SeekFrom::Start(from)).and_then(|_| file.take(LOG_TAIL_BYTES).read_to_end(&mut text));
        match read {
            Ok(_) => format!("the server said:\n{}", String::from_utf8_lossy(&text).trim_end()),
            Err(error) => format!("the server's log cannot be read: {error}"),
        }
    }
}

/// Writes a file that only its owner can read, all of it or nothing.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = File::options().create_new(true).write(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    fs::rename(&new, path).with_context(|| format!("write {}", path.display()))
}

/// A password that nobody guesses, of letters and digits, so that no connection string has to quote it.
pub fn password() -> String {
    use rand::Rng;
    rand::rng().sample_iter(rand::distr::Alphanumeric).take(20).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_in_what_servers_print() {
        let cases = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some("15.18")),
            ("postgres (PostgreSQL) 18beta1", Some("18")),
            ("mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian n/a)", Some("10.11.19")),
            ("usage: postgres", None),
        ];
        for (text, expected) in cases {
            assert_eq!(version_in(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_process_that_only_has_the_pid_of_a_server_is_not_taken_for_it() {
        let this = std::process::id();
        assert!(command_line(this).is_some_and(|arguments| !arguments.is_empty()));
        assert!(!serves(this, Path::new("/var/tmp/dms-local/postgres-1/data")));
    }

    #[tokio::test]
    async fn ending_a_process_that_is_gone_is_no_error() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        end(pid, "TERM", Path::new("/nowhere")).await.unwrap();
    }
}
