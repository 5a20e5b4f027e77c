//! MariaDB servers of a sandbox.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::process::{self, Account, Installation};
use super::{Durability, Home, Record};

pub fn installation() -> Result<Installation> {
    let (server, initializer) = programs(&process::search_path(Vec::new()))?;
    Ok(Installation { version: process::version(&server)?, server, initializer })
}

/// `mariadbd` and `mariadb-install-db`.
fn programs(dirs: &[PathBuf]) -> Result<(PathBuf, PathBuf)> {
    process::find(dirs, "mariadbd").zip(process::find(dirs, "mariadb-install-db")).context(
        "MariaDB is not installed: there is no mariadbd and mariadb-install-db in PATH or /usr/sbin \
         (on Debian and Ubuntu: apt-get install mariadb-server)",
    )
}

/// Makes the server's own tables, and the script that leaves the record's login as the only one.
pub async fn initialize(home: &Home, installation: &Installation, account: &Account, record: &Record) -> Result<()> {
    let data = home.data_dir();
    let arguments = [
        // First, or it is not understood: the machine's own option files do not take part.
        "--no-defaults".to_owned(),
        format!("--datadir={}", data.display()),
        format!("--tmpdir={}", home.temporary_dir().display()),
        "--auth-root-authentication-method=normal".to_owned(),
        "--skip-test-db".to_owned(),
        "--skip-name-resolve".to_owned(),
    ];
    account.run(&installation.initializer, &arguments, None, &data).await?;
    // Run by the server before it takes logins, at each start, as it does no harm a second time. The server's own
    // `root` and anonymous users go: they have no password.
    let login = home.dir.join("login.sql");
    let Record { user, password, database, .. } = record;
    let statements = [
        format!("CREATE DATABASE IF NOT EXISTS `{database}`"),
        format!("CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{password}'"),
        format!("GRANT ALL PRIVILEGES ON *.* TO '{user}'@'%' WITH GRANT OPTION"),
        "DELETE FROM mysql.global_priv WHERE User IN ('', 'root')".to_owned(),
        "FLUSH PRIVILEGES".to_owned(),
    ];
    process::write_private(&login, format!("{};\n", statements.join(";\n")).as_bytes())?;
    account.own(&login, 0o600)
}

/// The command line of the server: every setting is here, so that one look at the process list shows what runs.
pub fn arguments(home: &Home, record: &Record, durability: Durability) -> Vec<String> {
    let data = home.data_dir();
    let mut arguments = vec![
        "--no-defaults".to_owned(),
        format!("--datadir={}", data.display()),
        format!("--tmpdir={}", home.temporary_dir().display()),
        format!("--init-file={}", home.dir.join("login.sql").display()),
        format!("--pid-file={}", data.join(home.kind.pid_file()).display()),
        format!("--port={}", record.port),
        // Any two servers of the machine differ, so that one can be the other's replica.
        format!("--server-id={}", record.port),
    ];
    let settings = [
        "--bind-address=127.0.0.1",
        // In the data folder, the server's working directory: a whole path may be longer than a socket's may be.
        "--socket=server.sock",
        "--skip-name-resolve",
        // Tests fail logins on purpose; the server shall not lock the whole machine out for it.
        "--max-connect-errors=4294967295",
        "--max-connections=200",
        "--character-set-server=utf8mb4",
        "--default-time-zone=+00:00",
        "--innodb-buffer-pool-size=256M",
        // What DMS asks of a source with ongoing replication.
        "--log-bin=binlog",
        "--binlog-format=ROW",
        "--binlog-row-image=FULL",
        "--binlog-row-metadata=FULL",
        "--binlog-expire-logs-seconds=86400",
        // Targets are loaded with LOAD DATA LOCAL INFILE, LOBs in one packet.
        "--local-infile=ON",
        "--max-allowed-packet=1G",
    ];
    arguments.extend(settings.map(str::to_owned));
    if durability == Durability::None {
        // Commits still reach the operating system: a server that is killed loses nothing.
        let unsafe_settings = ["--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0", "--innodb-flush-method=nosync"];
        arguments.extend(unsafe_settings.map(str::to_owned));
    }
    arguments
}

/// Ok when the server greets: it does so only once it takes logins.
pub async fn probe(address: SocketAddr) -> io::Result<()> {
    const HEADER_BYTES: usize = 4;
    const PROTOCOL: u8 = 10;
    let mut greeting = [0; HEADER_BYTES + 1];
    TcpStream::connect(address).await?.read_exact(&mut greeting).await?;
    match greeting[HEADER_BYTES] {
        PROTOCOL => Ok(()),
        other => Err(io::Error::other(format!("protocol {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_mariadb_is_told_the_package() {
        let empty = tempfile::tempdir().unwrap();
        let error = programs(&[empty.path().to_owned()]).unwrap_err();
        assert!(error.to_string().contains("apt-get install mariadb-server"), "{error}");
    }
}
