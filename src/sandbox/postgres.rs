//! PostgreSQL servers of a sandbox.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::{self, Account, Installation};
use super::{Durability, Home, Record};

/// Where Debian puts the binaries of each major version, without making them known to PATH.
const DEBIAN_VERSIONS: &str = "/usr/lib/postgresql";

pub fn installation() -> Result<Installation> {
    let (server, initializer) = programs(&process::search_path(debian_versions(Path::new(DEBIAN_VERSIONS))))?;
    Ok(Installation { version: process::version(&server)?, server, initializer })
}

/// `postgres` and `initdb`. Some folders have clients only, so one counts when it has both.
fn programs(dirs: &[PathBuf]) -> Result<(PathBuf, PathBuf)> {
    let both = |dir| Some((process::find(dir, "postgres")?, process::find(dir, "initdb")?));
    dirs.chunks(1).find_map(both).with_context(|| {
        format!(
            "PostgreSQL is not installed: there is no postgres and initdb in PATH or {DEBIAN_VERSIONS}/*/bin \
             (on Debian and Ubuntu: apt-get install postgresql)"
        )
    })
}

/// The `bin` folders of all installed versions, newest first.
fn debian_versions(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| Reverse(*version));
    versions.into_iter().map(|(_, dir)| dir).collect()
}

/// Makes a cluster whose only login is the record's, by password, and the record's database in it.
pub async fn initialize(home: &Home, installation: &Installation, account: &Account, record: &Record) -> Result<()> {
    let data = home.data_dir();
    let password_file = home.temporary_dir().join("password");
    process::write_private(&password_file, record.password.as_bytes())?;
    account.own(&password_file, 0o600)?;
    let initdb = [
        format!("--pgdata={}", data.display()),
        format!("--username={}", record.user),
        format!("--pwfile={}", password_file.display()),
        "--auth=scram-sha-256".to_owned(),
        "--encoding=UTF8".to_owned(),
        "--locale=C.UTF-8".to_owned(),
        "--no-sync".to_owned(),
        "--no-instructions".to_owned(),
    ];
    let outcome = account.run(&installation.initializer, &initdb, None, &data).await;
    fs::remove_file(&password_file)?;
    outcome?;
    // A server without clients or network, which reads SQL from its input: no login is needed to make the database.
    let script = home.temporary_dir().join("database.sql");
    fs::write(&script, format!("CREATE DATABASE {}\n", record.database))?;
    let single = ["--single", "-c", "fsync=off", "-D", &data.to_string_lossy(), "postgres"].map(str::to_owned);
    account.run(&installation.server, &single, Some(File::open(&script)?), &data).await?;
    fs::remove_file(&script)?;
    Ok(())
}

/// The command line of the server: every setting is here, so that one look at the process list shows what runs.
pub fn arguments(home: &Home, record: &Record, durability: Durability) -> Vec<String> {
    let port = record.port.to_string();
    let mut settings = vec![
        ("port", port.as_str()),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("max_connections", "200"),
        // What DMS asks of a source with ongoing replication.
        ("wal_level", "logical"),
        ("max_replication_slots", "64"),
        ("max_wal_senders", "64"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
    ];
    if durability == Durability::None {
        // Commits still reach the operating system: a server that is killed loses nothing.
        settings.extend([("fsync", "off"), ("full_page_writes", "off")]);
    }
    let mut arguments = vec!["-D".to_owned(), home.data_dir().to_string_lossy().into_owned()];
    for (name, value) in settings {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    arguments
}

/// Ok when the server asks for a password: while it starts or recovers, it answers an error instead.
pub async fn probe(address: SocketAddr, record: &Record) -> io::Result<()> {
    const PROTOCOL_3_0: u32 = 3 << 16;
    const AUTHENTICATION_REQUEST: u8 = b'R';
    let parameters = format!("user\0{}\0database\0{}\0\0", record.user, record.database);
    let mut stream = TcpStream::connect(address).await?;
    let mut startup = Vec::new();
    startup.extend(u32::try_from(8 + parameters.len()).map_err(io::Error::other)?.to_be_bytes());
    startup.extend(PROTOCOL_3_0.to_be_bytes());
    startup.extend(parameters.as_bytes());
    stream.write_all(&startup).await?;
    match stream.read_u8().await? {
        AUTHENTICATION_REQUEST => Ok(()),
        other => Err(io::Error::other(format!("answer {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_several_versions_comes_first() {
        let parent = tempfile::tempdir().unwrap();
        for version in ["9", "15", "18", "common"] {
            fs::create_dir(parent.path().join(version)).unwrap();
        }
        let found = debian_versions(parent.path());
        let names: Vec<_> =
            found.iter().map(|dir| dir.strip_prefix(parent.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["18/bin", "15/bin", "9/bin"]);
    }

    #[test]
    fn a_machine_without_postgresql_is_told_the_package() {
        let empty = tempfile::tempdir().unwrap();
        let error = programs(&[empty.path().to_owned()]).unwrap_err();
        assert!(error.to_string().contains("apt-get install postgresql"), "{error}");
    }
}
