//! A PostgreSQL server that lives as long as the test process.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::connector::{Connection, Secret};

/// The server, started by the first test that asks. It goes when the process goes, however that ends: a shell waits
/// for the end of the pipe that only this process holds, stops the server and removes its directory.
pub fn postgres_server() -> &'static PostgresServer {
    static SERVER: OnceLock<PostgresServer> = OnceLock::new();
    SERVER.get_or_init(|| PostgresServer::start(""))
}

/// The same with pglogical, which has to be loaded when a server starts; `None` where it is not there to be loaded. On the
/// version that the project is tested with it has to be there.
pub fn pglogical_server() -> Option<&'static PostgresServer> {
    static SERVER: OnceLock<Option<PostgresServer>> = OnceLock::new();
    let start = || {
        let binaries = binaries();
        if binaries.with_file_name("lib").join("pglogical.so").exists() {
            // Each database of a node has a worker.
            return Some(PostgresServer::start("shared_preload_libraries = 'pglogical'\nmax_worker_processes = 200"));
        }
        let version = Command::new(binaries.join("postgres")).arg("--version").output().unwrap().stdout;
        let version = String::from_utf8_lossy(&version).trim_end().to_owned();
        assert!(
            !version.contains(" 15."),
            "the tests need pglogical: install the package postgresql-15-pglogical, as scripts/setup.sh test does"
        );
        eprintln!("pglogical is not installed for {version}: nothing is tested with it");
        None
    };
    SERVER.get_or_init(start).as_ref()
}

/// Names a folder of PostgreSQL's binaries to test with instead of the newest that is installed.
const BINARIES: &str = "DMS_LOCAL_TEST_POSTGRES";

pub struct PostgresServer {
    pub port: u16,
    binaries: PathBuf,
    directory: PathBuf,
    /// The certificate of the server, which is its own authority; it names `localhost`.
    pub certificate_pem: String,
    _shell: Child,
    _lifeline: ChildStdin,
}

const SHELL: &str = r#"
trap '' INT TERM HUP
cd / && "$B/initdb" -D "$D/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$D/initdb.log" 2>&1 || {
    cat "$D/initdb.log"; rm -rf "$D"; exit 1; }
cp "$D/pg_hba.conf" "$D/server.key" "$D/server.crt" "$D/data/" && chmod 600 "$D/data/server.key"
cat "$D/extra.conf" >>"$D/data/postgresql.conf"
"$B/pg_ctl" -D "$D/data" -l "$D/log" -w start >"$D/start.log" 2>&1 || {
    cat "$D/start.log" "$D/log"; rm -rf "$D"; exit 1; }
echo ready
cat >/dev/null
"$B/pg_ctl" -D "$D/data" -m immediate stop >/dev/null 2>&1
rm -rf "$D"
"#;

/// Everyone comes in one way: `tls_user` only encrypted, the others by the method of their name.
const HBA: &str = "host all postgres 127.0.0.1/32 trust
host all md5_user 127.0.0.1/32 md5
host all password_user 127.0.0.1/32 password
host all scram_user 127.0.0.1/32 scram-sha-256
hostssl all tls_user 127.0.0.1/32 scram-sha-256
host all +capturing 127.0.0.1/32 scram-sha-256
";

pub const PASSWORD: &str = "pass'word ü";

impl PostgresServer {
    /// A server that only this test has, with lines of its own in the configuration.
    pub fn start(configuration: &str) -> PostgresServer {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let binaries = binaries();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("dms-local-test-postgres-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\nssl = on\n\
             wal_level = logical\nmax_replication_slots = 100\nmax_wal_senders = 100\nmax_connections = 200\nshared_buffers = 64MB\nmax_wal_size = 2GB\n\
             wal_writer_delay = 10s\n{configuration}\n"
        );
        fs::write(directory.join("extra.conf"), config).unwrap();
        fs::write(directory.join("pg_hba.conf"), HBA).unwrap();
        let certificate_pem = certificate(&directory);
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let mut command = Command::new(if root { "runuser" } else { "sh" });
        if root {
            // PostgreSQL refuses to run as root.
            run(Command::new("chown").arg("-R").arg("postgres:").arg(&directory));
            command.args(["-u", "postgres", "--", "sh"]);
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        let mut shell = command
            .args(["-c", SHELL])
            .env("B", &binaries)
            .env("D", &directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lifeline = shell.stdin.take().unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(shell.stdout.take().unwrap());
        while output.read_line(&mut said).unwrap() > 0 {
            if said.ends_with("ready\n") {
                let server =
                    PostgresServer { port, binaries, directory, certificate_pem, _shell: shell, _lifeline: lifeline };
                server.create_users();
                return server;
            }
        }
        panic!("PostgreSQL did not start ({}): {said}", shell.wait().unwrap());
    }

    fn create_users(&self) {
        self.sql("postgres", "CREATE ROLE capturing");
        let password = PASSWORD.replace('\'', "''");
        for (user, encryption) in [
            ("md5_user", "md5"),
            ("password_user", "scram-sha-256"),
            ("scram_user", "scram-sha-256"),
            ("tls_user", "scram-sha-256"),
        ] {
            self.sql(
                "postgres",
                &format!("SET password_encryption = '{encryption}'; CREATE USER {user} PASSWORD '{password}'"),
            );
        }
    }

    /// Begins a fast shutdown of a server that only this test has.
    pub fn shut_down(&self) {
        let file = fs::read_to_string(self.process_file()).unwrap();
        run(Command::new("kill").args(["-INT", file.lines().next().unwrap()]));
    }

    /// Returns when a shutdown has ended.
    pub async fn is_down(&self) {
        while self.process_file().exists() {
            tokio::task::yield_now().await;
        }
    }

    fn process_file(&self) -> PathBuf {
        self.directory.join("data/postmaster.pid")
    }

    pub fn connection(&self, database: &str) -> Connection {
        Connection {
            server: "127.0.0.1".into(),
            port: self.port,
            user: "postgres".into(),
            password: Secret::new(""),
            database: database.into(),
            ..Connection::default()
        }
    }

    /// The first number of the server's version.
    pub fn version(&self) -> u32 {
        self.sql("postgres", "SELECT current_setting('server_version_num')::int / 10000").parse().unwrap()
    }

    /// A new, empty database that no other test uses.
    pub fn create_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// Runs statements with psql and gives what it prints: values separated by `|`.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.sql_as("postgres", database, sql)
    }

    pub fn sql_as(&self, user: &str, database: &str, sql: &str) -> String {
        let own = self.binaries.join("psql");
        let mut psql = Command::new(if own.exists() { own } else { "psql".into() })
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", user, "-d", database])
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .env("PGCLIENTENCODING", "UTF8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        psql.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = psql.wait_with_output().unwrap();
        assert!(output.status.success(), "{}\nin: {:.2000}", String::from_utf8_lossy(&output.stderr), sql);
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
}

/// The newest installed PostgreSQL.
fn binaries() -> PathBuf {
    if let Some(folder) = std::env::var_os(BINARIES) {
        return folder.into();
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, path)| path.join("initdb").exists())
        .max();
    newest.expect("no PostgreSQL server under /usr/lib/postgresql: install the package postgresql").1
}

fn certificate(directory: &Path) -> String {
    let (key, certificate) = (directory.join("server.key"), directory.join("server.crt"));
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate));
    fs::read_to_string(certificate).unwrap()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
