//! The command line of the sandbox.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::{Durability, Plan, Sandbox};

/// Throw-away PostgreSQL and MariaDB servers from the binaries installed on this machine
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Start the servers, setting up those that do not exist yet, and print how to connect as JSON
    Start(Start),
    /// End the servers; their data stays unless --delete is given
    Stop(Stop),
    /// Print the servers and whether they run as JSON
    Status(Folder),
}

#[derive(Clone, Debug, Args)]
pub struct Folder {
    /// Where the servers keep their data [default: dms-local/sandbox in $XDG_STATE_HOME or ~/.local/state; for root in
    /// /var/lib]
    #[arg(long, value_name = "DIR", env = "DMS_LOCAL_SANDBOX_DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct Start {
    #[command(flatten)]
    pub folder: Folder,
    /// How many PostgreSQL servers: postgres-1, postgres-2, …
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub postgres: usize,
    /// How many MariaDB servers: mariadb-1, mariadb-2, …
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub mariadb: usize,
    /// Flush nothing to disk: quicker, and a crash of the machine may lose the data
    #[arg(long)]
    pub fast: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Stop {
    #[command(flatten)]
    pub folder: Folder,
    /// End only this server, such as postgres-1
    #[arg(long, value_name = "NAME", conflicts_with = "delete")]
    pub name: Option<String>,
    /// Remove the data of all servers as well
    #[arg(long)]
    pub delete: bool,
}

/// Does what the command line asks for and prints the servers as one JSON document.
pub async fn run(command: Command) -> Result<()> {
    let sandbox = match &command {
        Command::Start(Start { folder, .. }) | Command::Stop(Stop { folder, .. }) | Command::Status(folder) => {
            Sandbox::new(match &folder.dir {
                Some(dir) => dir.clone(),
                None => default_dir()?,
            })
        }
    };
    match command {
        Command::Start(start) => {
            let durability = if start.fast { Durability::None } else { Durability::Full };
            sandbox.start(Plan { postgres: start.postgres, mariadb: start.mariadb, durability }).await?;
        }
        Command::Stop(stop) if stop.delete => sandbox.delete().await?,
        Command::Stop(stop) => sandbox.stop(stop.name.as_deref()).await?,
        Command::Status(_) => {}
    }
    println!("{:#}", sandbox.document()?);
    Ok(())
}

/// A folder that lasts. Root's own home is closed to the users that root's servers run as.
fn default_dir() -> Result<PathBuf> {
    let from_variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = from_variable("HOME").context("HOME is not set: say where with --dir")?;
    let state = match from_variable("XDG_STATE_HOME") {
        Some(state) => state,
        None if super::owner(&home)? == 0 => PathBuf::from("/var/lib"),
        None => home.join(".local/state"),
    };
    Ok(state.join("dms-local/sandbox"))
}
