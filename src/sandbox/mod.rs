//! `dms-local sandbox`: throw-away PostgreSQL and MariaDB servers, made from the binaries installed on the machine.
//!
//! The demo, the tests, the benchmarks and users who have no database at hand use the same servers: on loopback, on
//! free ports, with a password login, and set up as DMS asks of a source (logical WAL; row binlog with full images).
//!
//! A folder holds any number of instances, named `postgres-1`, `mariadb-1` and so on:
//!
//! ```text
//! DIR/lock                      held while a command changes something
//! DIR/postgres-1/instance.json  port and login; written last, so it marks a finished set-up
//!               /data           the server's own
//!               /tmp            its temporary files
//!               /server.log
//! ```
//!
//! Whether an instance runs is never remembered but looked up: the server's own pid file names a process, and that
//! process is ours only if its command line names our data folder. So nothing is wrong after `kill -9` or a reboot,
//! and a process that merely got the pid of a dead server is never touched.
//!
//! Run by root, the servers run as the users `postgres` and `mysql`, as their packages set up. This is a tool at the
//! edge of the program: it uses no other module of the crate, and its errors are for people.

mod command;
mod mariadb;
mod postgres;
mod process;
mod temporary;

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{sleep, timeout};

pub use command::{Command, run};
use process::Installation;
pub use temporary::{Temporary, shared, temporary};

/// A server that does not answer in this time after its start has failed. Recovery after a crash is part of it.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How often the condition that is waited for is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A probe of a listening server that gets no answer in this time is tried again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How many instances of one kind a sandbox may have.
pub const INSTANCES_MAX: usize = 16;

/// The login of every instance, and the database it comes with.
const USER: &str = "dms";
const DATABASE: &str = "dms";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Postgres,
    MariaDb,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Postgres, Kind::MariaDb];

    /// As in `EngineName` of an endpoint.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mariadb",
        }
    }

    /// The user that the server runs as when root starts it.
    fn system_user(self) -> &'static str {
        match self {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mysql",
        }
    }

    /// The file in the data folder whose first line is the server's pid.
    fn pid_file(self) -> &'static str {
        match self {
            Kind::Postgres => "postmaster.pid",
            Kind::MariaDb => "mariadbd.pid",
        }
    }

    fn installation(self) -> Result<Installation> {
        match self {
            Kind::Postgres => postgres::installation(),
            Kind::MariaDb => mariadb::installation(),
        }
    }
}

/// What a crash of the machine may cost. That of a server alone costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was committed, as in production: what a benchmark needs to be honest.
    Full,
    /// Everything; nothing is flushed to disk. For tests.
    None,
}

/// How many servers of each kind there shall be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub postgres: usize,
    pub mariadb: usize,
    pub durability: Durability,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Running,
    Stopped,
}

/// One server: where it is and how to log in.
#[derive(Clone, Debug, Serialize)]
pub struct Instance {
    pub name: String,
    #[serde(rename = "engine")]
    pub kind: Kind,
    pub status: Status,
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    pub database: String,
    /// Of the server binary, such as `15.18`.
    pub version: String,
    pub data_dir: PathBuf,
    pub log: PathBuf,
    pub pid: Option<u32>,
}

/// `instance.json`: what must stay the same from one start to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    engine: Kind,
    port: u16,
    user: String,
    password: String,
    database: String,
    version: String,
}

/// The servers of one folder.
pub struct Sandbox {
    dir: PathBuf,
}

impl Sandbox {
    pub fn new(dir: impl Into<PathBuf>) -> Sandbox {
        Sandbox { dir: dir.into() }
    }

    /// Starts what the plan asks for and does not run yet, setting up what does not exist yet. When one server fails,
    /// those that this call started are stopped again.
    pub async fn start(&self, plan: Plan) -> Result<Vec<Instance>> {
        if plan.postgres > INSTANCES_MAX || plan.mariadb > INSTANCES_MAX {
            bail!("a sandbox has at most {INSTANCES_MAX} servers of one kind");
        }
        fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        let _lock = self.lock().await?;
        let dir = fs::canonicalize(&self.dir)?;
        if process::is_root(&dir)? {
            // The servers' own users must get through to their data.
            let mode = fs::metadata(&dir)?.permissions().mode();
            fs::set_permissions(&dir, Permissions::from_mode(mode | 0o111))?;
        }
        let mut homes = Vec::new();
        for (kind, count) in [(Kind::Postgres, plan.postgres), (Kind::MariaDb, plan.mariadb)] {
            if count > 0 {
                // Said before anything is done: a missing package is the likeliest reason to fail.
                let installation = kind.installation()?;
                homes.extend((1..=count).map(|number| Home::new(&dir, kind, number).with(installation.clone())));
            }
        }
        let reserved = Ports::reserve(homes.len())?;
        let started = join_all(
            homes
                .iter()
                .zip(reserved.ports())
                .map(|((home, installation), port)| home.start(installation, port, plan.durability)),
        );
        drop(reserved);
        let mut failure = None;
        let mut fresh = Vec::new();
        for ((home, _), outcome) in homes.iter().zip(started.await) {
            match outcome.with_context(|| format!("start {}", home.name)) {
                Ok(Started::Now) => fresh.push(home),
                Ok(Started::Before) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            for home in fresh {
                home.stop(Shutdown::Clean).await?;
            }
            return Err(error);
        }
        self.status()
    }

    /// Ends the named server, or all of them, and returns when the processes are gone. The data stays.
    pub async fn stop(&self, name: Option<&str>) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        let _lock = self.lock().await?;
        let homes = self.homes()?.into_iter().filter(|home| name.is_none_or(|name| name == home.name));
        let homes: Vec<Home> = homes.collect();
        if let Some(name) = name
            && homes.is_empty()
        {
            bail!("there is no {name} in {}", self.dir.display());
        }
        stop_all(&homes, Shutdown::Clean).await
    }

    /// Ends all servers at once and removes what they stored: their own folders, nothing else.
    pub async fn delete(&self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        let _lock = self.lock().await?;
        let homes = self.homes()?;
        stop_all(&homes, Shutdown::Abrupt).await?;
        for home in homes {
            fs::remove_dir_all(&home.dir).with_context(|| format!("remove {}", home.dir.display()))?;
        }
        fs::remove_file(self.dir.join("lock"))?;
        // Only an empty folder goes; other files in it are not ours.
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }

    /// All servers of the folder, running or not.
    pub fn status(&self) -> Result<Vec<Instance>> {
        let mut instances = Vec::new();
        for home in self.homes()? {
            if let Some(record) = home.record()? {
                instances.push(home.instance(record)?);
            }
        }
        Ok(instances)
    }

    /// What the command line prints.
    fn document(&self) -> Result<serde_json::Value> {
        Ok(json!({ "dir": fs::canonicalize(&self.dir).unwrap_or(self.dir.clone()), "instances": self.status()? }))
    }

    fn homes(&self) -> Result<Vec<Home>> {
        if !self.dir.exists() {
            return Ok(Vec::new());
        }
        let dir = fs::canonicalize(&self.dir)?;
        let numbered = |kind| (1..=INSTANCES_MAX).map(move |number| (kind, number));
        let homes = Kind::ALL.into_iter().flat_map(numbered).map(|(kind, number)| Home::new(&dir, kind, number));
        Ok(homes.filter(|home| home.dir.is_dir()).collect())
    }

    /// Waits for other commands on the same folder to end.
    async fn lock(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        tokio::task::spawn_blocking(move || {
            file.lock()?;
            Ok(file)
        })
        .await?
    }
}

async fn stop_all(homes: &[Home], shutdown: Shutdown) -> Result<()> {
    join_all(homes.iter().map(|home| home.stop(shutdown))).await.into_iter().collect()
}

#[derive(Clone, Copy)]
enum Shutdown {
    /// As a service manager would: what is in memory is written.
    Clean,
    /// At once, for data that nobody will read again.
    Abrupt,
}

enum Started {
    Now,
    Before,
}

/// The folder of one server.
struct Home {
    name: String,
    kind: Kind,
    dir: PathBuf,
}

impl Home {
    fn new(sandbox: &Path, kind: Kind, number: usize) -> Home {
        let name = format!("{}-{number}", kind.name());
        Home { dir: sandbox.join(&name), name, kind }
    }

    fn with(self, installation: Installation) -> (Home, Installation) {
        (self, installation)
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn temporary_dir(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    fn record(&self) -> Result<Option<Record>> {
        let path = self.dir.join("instance.json");
        match fs::read(&path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    fn save(&self, record: &Record) -> Result<()> {
        process::write_private(&self.dir.join("instance.json"), &serde_json::to_vec_pretty(record)?)
    }

    fn instance(&self, record: Record) -> Result<Instance> {
        let pid = self.pid();
        Ok(Instance {
            name: self.name.clone(),
            kind: self.kind,
            status: if pid.is_some() { Status::Running } else { Status::Stopped },
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: record.port,
            user: record.user,
            password: record.password,
            database: record.database,
            version: record.version,
            data_dir: self.data_dir(),
            log: self.log(),
            pid,
        })
    }

    /// The process that serves this data folder, if there is one.
    fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.data_dir().join(self.kind.pid_file())).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        process::serves(pid, &self.data_dir()).then_some(pid)
    }

    async fn start(&self, installation: &Installation, port: u16, durability: Durability) -> Result<Started> {
        let record = match self.record()? {
            Some(record) => record,
            None => self.set_up(installation, port).await?,
        };
        if self.pid().is_some() {
            self.answers(&record, None).await?;
            return Ok(Started::Before);
        }
        self.launch(installation, record, durability).await?;
        Ok(Started::Now)
    }

    /// Makes the folder and the server's data. Interrupted, it is done anew the next time.
    async fn set_up(&self, installation: &Installation, port: u16) -> Result<Record> {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))?;
        }
        fs::create_dir(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        fs::set_permissions(&self.dir, Permissions::from_mode(0o755))?;
        let account = process::account(self.kind, &self.dir)?;
        for dir in [self.data_dir(), self.temporary_dir()] {
            fs::create_dir(&dir)?;
            account.own(&dir, 0o700)?;
        }
        let record = Record {
            engine: self.kind,
            port,
            user: USER.to_owned(),
            password: process::password(),
            database: DATABASE.to_owned(),
            version: installation.version.clone(),
        };
        match self.kind {
            Kind::Postgres => postgres::initialize(self, installation, &account, &record).await?,
            Kind::MariaDb => mariadb::initialize(self, installation, &account, &record).await?,
        }
        self.save(&record)?;
        Ok(record)
    }

    /// Starts the server process and waits until it answers. A server that ends at once is started again while there
    /// is time: its port may have been taken a moment before, and the last processes of a server that was killed may
    /// still be holding its memory.
    async fn launch(&self, installation: &Installation, mut record: Record, durability: Durability) -> Result<()> {
        const ATTEMPTS: usize = 5;
        let account = process::account(self.kind, &self.dir)?;
        record.version.clone_from(&installation.version);
        for attempt in 1.. {
            if !Ports::is_free(record.port) {
                record.port = Ports::reserve(1)?.ports()[0];
            }
            self.save(&record)?;
            // No process serves this folder, so a pid file in it is a dead server's. PostgreSQL would believe it if
            // another process of its user had got the number.
            let _ = fs::remove_file(self.data_dir().join(self.kind.pid_file()));
            let arguments = match self.kind {
                Kind::Postgres => postgres::arguments(self, &record, durability),
                Kind::MariaDb => mariadb::arguments(self, &record, durability),
            };
            let log = process::Log::open(&self.log())?;
            let mut child = account.spawn(&installation.server, &arguments, &self.data_dir(), &log)?;
            match self.answers(&record, Some(&mut child)).await {
                Ok(()) => break,
                Err(error) if attempt < ATTEMPTS && child.try_wait()?.is_some() => drop(error),
                Err(error) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(error.context(log.tail()));
                }
            }
        }
        Ok(())
    }

    /// Waits until the server takes logins.
    async fn answers(&self, record: &Record, mut child: Option<&mut std::process::Child>) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, record.port));
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let probe = match self.kind {
                Kind::Postgres => timeout(PROBE_TIMEOUT, postgres::probe(address, record)).await,
                Kind::MariaDb => timeout(PROBE_TIMEOUT, mariadb::probe(address)).await,
            };
            // Asked for the pid as well: another server may listen where ours could not.
            if matches!(probe, Ok(Ok(()))) && self.pid().is_some() {
                return Ok(());
            }
            if let Some(child) = &mut child
                && let Some(status) = child.try_wait()?
            {
                bail!("the server ended at once: {status}");
            }
            if Instant::now() > deadline {
                bail!("the server does not answer on {address} after {} s", START_TIMEOUT.as_secs());
            }
            sleep(POLL).await;
        }
    }

    /// Ends the server and waits until its process is gone.
    async fn stop(&self, shutdown: Shutdown) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let signal = match (self.kind, shutdown) {
            // PostgreSQL's fast and immediate shutdown. Killed outright, it would leave its shared memory behind.
            (Kind::Postgres, Shutdown::Clean) => "INT",
            (Kind::Postgres, Shutdown::Abrupt) => "QUIT",
            (Kind::MariaDb, Shutdown::Clean) => "TERM",
            (Kind::MariaDb, Shutdown::Abrupt) => "KILL",
        };
        process::end(pid, signal, &self.data_dir()).await.with_context(|| format!("stop {}", self.name))
    }
}

/// Free ports, kept from others until they are given out.
struct Ports(Vec<TcpListener>);

impl Ports {
    fn reserve(count: usize) -> Result<Ports> {
        let listeners: std::io::Result<Vec<_>> =
            (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
        Ok(Ports(listeners.context("find a free port")?))
    }

    fn ports(&self) -> Vec<u16> {
        self.0.iter().filter_map(|listener| listener.local_addr().ok()).map(|address| address.port()).collect()
    }

    fn is_free(port: u16) -> bool {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
    }
}

/// Who owns a path.
fn owner(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path)?.uid())
}
