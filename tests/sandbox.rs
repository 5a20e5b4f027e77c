//! `dms-local sandbox` from outside, on the real servers of this machine.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use dms_local::sandbox::{Kind, temporary};
use serde_json::Value as Json;

/// A sandbox that is stopped and removed when the test ends, also when it fails.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::Builder::new().prefix("dms-local-").tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dms-local"));
        command.arg("sandbox").args(arguments).arg("--dir").arg(self.path()).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// The instances that the command prints.
    fn run(&self, arguments: &[&str]) -> Vec<Json> {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: Json = serde_json::from_slice(&output.stdout).unwrap();
        document["instances"].as_array().unwrap().clone()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.try_run(&["stop", "--delete"]);
    }
}

/// Runs a query with the engine's own client over TCP, with a password.
fn query(instance: &Json, password: &str, sql: &str) -> Result<String, String> {
    let text = |member: &str| instance[member].as_str().unwrap().to_owned();
    let port = instance["port"].to_string();
    let output = if instance["engine"] == "postgres" {
        let arguments = ["-h", &text("host"), "-p", &port, "-U", &text("user"), "-d", &text("database"), "-XAtc", sql];
        Command::new("psql").env("PGPASSWORD", password).args(arguments).output()
    } else {
        let (user, database) = (text("user"), text("database"));
        let arguments = ["--no-defaults", "--protocol=tcp", "-h127.0.0.1", "-P", &port, "-u", &user, "-D", &database];
        Command::new("mariadb").env("MYSQL_PWD", password).args(arguments).args(["-NBe", sql]).output()
    };
    let output = output.unwrap();
    let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    if output.status.success() { Ok(said(output.stdout)) } else { Err(said(output.stderr)) }
}

fn password(instance: &Json) -> &str {
    instance["password"].as_str().unwrap()
}

fn kill9(instance: &Json) {
    let pid = instance["pid"].to_string();
    assert!(Command::new("sh").args(["-c", "kill -9 \"$1\"", "sh", &pid]).status().unwrap().success());
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn servers_are_as_dms_wants_a_source_and_take_only_the_password() {
    let folder = Folder::new();
    let instances = folder.run(&["start", "--fast"]);
    let [postgres, mariadb] = &instances[..] else { panic!("{instances:?}") };
    assert_eq!((&postgres["name"], &mariadb["name"]), (&Json::from("postgres-1"), &Json::from("mariadb-1")));
    for (instance, sql, expected) in [
        (postgres, "SHOW wal_level", "logical"),
        (postgres, "SELECT count(*) > 0 FROM pg_database WHERE datname = 'dms'", "t"),
        (mariadb, "SELECT @@binlog_format, @@binlog_row_image, @@binlog_row_metadata", "ROW\tFULL\tFULL"),
        (mariadb, "SELECT @@local_infile, @@log_bin, DATABASE()", "1\t1\tdms"),
    ] {
        assert_eq!(query(instance, password(instance), sql).unwrap(), expected, "{sql}");
        query(instance, "wrong", sql).unwrap_err();
        let version = instance["version"].as_str().unwrap();
        assert!(query(instance, password(instance), "SELECT version()").unwrap().contains(version));
    }
}

#[test]
fn starting_again_changes_nothing_and_more_can_be_added() {
    let folder = Folder::new();
    let first = folder.run(&["start", "--fast", "--mariadb", "0"]);
    assert_eq!(folder.run(&["start", "--fast", "--mariadb", "0"]), first);
    let second = folder.run(&["start", "--fast", "--mariadb", "0", "--postgres", "2"]);
    assert_eq!(second[0], first[0]);
    assert_eq!(second.len(), 2);
    assert_ne!(second[0]["port"], second[1]["port"]);
    assert_eq!(folder.run(&["status"]), second);
}

#[test]
fn stopped_and_killed_servers_come_back_with_their_data_and_port() {
    let folder = Folder::new();
    let instances = folder.run(&["start", "--fast"]);
    for instance in &instances {
        query(instance, password(instance), "CREATE TABLE kept (id int)").unwrap();
    }
    for stopped in folder.run(&["stop"]) {
        assert_eq!((&stopped["status"], &stopped["pid"]), (&Json::from("stopped"), &Json::Null));
    }
    for instance in folder.run(&["start", "--fast"]) {
        kill9(&instance);
    }
    let again = folder.run(&["start", "--fast"]);
    for (instance, before) in again.iter().zip(&instances) {
        assert_eq!(instance["port"], before["port"]);
        assert_eq!(query(instance, password(before), "SELECT count(*) FROM kept").unwrap(), "0");
    }
}

#[test]
fn one_server_can_be_stopped_alone() {
    let folder = Folder::new();
    folder.run(&["start", "--fast", "--mariadb", "0", "--postgres", "2"]);
    let statuses: Vec<Json> =
        folder.run(&["stop", "--name", "postgres-2"]).iter().map(|instance| instance["status"].clone()).collect();
    assert_eq!(statuses, ["running", "stopped"]);
    let output = folder.try_run(&["stop", "--name", "postgres-9"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no postgres-9"));
}

#[test]
fn a_process_with_the_pid_of_a_dead_server_is_left_alone() {
    let folder = Folder::new();
    let instances = folder.run(&["start", "--fast"]);
    folder.run(&["stop"]);
    // What a reboot leaves behind: pid files that name processes of others. Here, this one.
    let this = format!("{}\n", std::process::id());
    for (instance, file) in instances.iter().zip(["postmaster.pid", "mariadbd.pid"]) {
        fs::write(Path::new(instance["data_dir"].as_str().unwrap()).join(file), &this).unwrap();
    }
    for instance in folder.run(&["stop"]) {
        assert_eq!(instance["status"], "stopped");
    }
    for instance in folder.run(&["start", "--fast"]) {
        assert_eq!(instance["status"], "running");
    }
}

#[test]
fn an_interrupted_setup_is_done_anew() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path().join("postgres-1/data/base")).unwrap();
    let instances = folder.run(&["start", "--fast", "--mariadb", "0"]);
    assert_eq!(query(&instances[0], password(&instances[0]), "SELECT 1").unwrap(), "1");
}

#[test]
fn deleting_leaves_the_files_of_others() {
    let folder = Folder::new();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let instances = folder.run(&["start", "--fast", "--mariadb", "0"]);
    assert_eq!(folder.run(&["stop", "--delete"]), Vec::<Json>::new());
    assert!(!Path::new(instances[0]["data_dir"].as_str().unwrap()).exists());
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(),
        ["notes.txt"]
    );
}

#[test]
fn a_folder_that_the_servers_user_cannot_enter_is_named() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let outside = Folder::new();
    let closed = Folder(tempfile::tempdir_in(outside.path()).unwrap());
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let output = closed.try_run(&["start", "--fast", "--mariadb", "0"]);
    // Only root's servers run as another user.
    if fs::metadata(outside.path()).unwrap().uid() == 0 {
        assert!(!output.status.success());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let closed = fs::canonicalize(outside.path()).unwrap();
        assert!(error.contains(&format!("cannot enter {}:", closed.display())), "{error}");
    } else {
        assert!(output.status.success());
    }
}

#[tokio::test]
async fn a_temporary_server_ends_with_the_value_that_holds_it() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let server = temporary(kind).await.unwrap();
        let dir = server.instance.data_dir.parent().unwrap().parent().unwrap().to_owned();
        let address = (server.instance.host.clone(), server.instance.port);
        assert!(std::net::TcpStream::connect(&address).is_ok());
        drop(server);
        wait_until("the folder is gone", || !dir.exists());
        assert!(std::net::TcpStream::connect(&address).is_err());
    }
}
