//! Servers that end with the process that started them, however it ends: for the tests of this crate.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};

use anyhow::{Context, Result};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::{Durability, Instance, Kind, Plan, Sandbox};

/// A server in a folder of its own. The server ends and the folder goes with this value, or with the process.
pub struct Temporary {
    pub instance: Instance,
    pub sandbox: Sandbox,
    /// The only writing end of the pipe that the watcher waits at.
    _alive: ChildStdin,
}

/// Waits for the end of its input, which the operating system brings about even when this process is killed, then
/// ends the servers of the folder at once and removes it. As in [`super::process::serves`], a process that has ended
/// but that nobody has waited for has no command line.
const WATCHER: &str = r#"
serves() {
    case $(tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null || ps -ww -o args= -p "$1") in
    *"$2"*) true ;;
    *) false ;;
    esac
}
cat >/dev/null
for data in "$1"/*/data; do
    pid=$(head -n 1 "$data"/*.pid 2>/dev/null) || continue
    serves "$pid" "$data" && kill -s QUIT "$pid" && while serves "$pid" "$data"; do sleep 0.05; done
done
rm -rf "$1"
"#;

/// Starts a server that nobody else uses, in the machine's folder for temporary files.
pub async fn temporary(kind: Kind) -> Result<Temporary> {
    let dir = std::env::temp_dir().join(format!("dms-local-{}", Uuid::new_v4()));
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    fs::set_permissions(&dir, Permissions::from_mode(0o755))?;
    let dir = fs::canonicalize(dir)?;
    let mut watcher = Command::new("sh")
        .args(["-c", WATCHER, "sh"])
        .arg(&dir)
        // Not among those that a Ctrl-C reaches: that is when the watcher has to work.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("run sh")?;
    let alive = watcher.stdin.take().context("the watcher's input")?;
    let one = |other| usize::from(kind == other);
    let plan = Plan { postgres: one(Kind::Postgres), mariadb: one(Kind::MariaDb), durability: Durability::None };
    let sandbox = Sandbox::new(dir);
    let instance = sandbox.start(plan).await?.pop().context("the server that was started")?;
    Ok(Temporary { instance, sandbox, _alive: alive })
}

/// The server that all tests of this process share; each test makes a database of its own in it.
pub async fn shared(kind: Kind) -> Result<&'static Instance> {
    static POSTGRES: OnceCell<Temporary> = OnceCell::const_new();
    static MARIADB: OnceCell<Temporary> = OnceCell::const_new();
    let cell = match kind {
        Kind::Postgres => &POSTGRES,
        Kind::MariaDb => &MARIADB,
    };
    Ok(&cell.get_or_try_init(|| temporary(kind)).await?.instance)
}
