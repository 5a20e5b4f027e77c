use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use dms_local::aws::sigv4::Scope;
use dms_local::config::{Arguments, Command, Serve};
use dms_local::control::{Control, Settings};
use dms_local::store::Store;
use dms_local::{sandbox, server};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let outcome = runtime.block_on(async {
        match arguments.command {
            Command::Serve(serve) => run(serve).await,
            Command::Sandbox(command) => sandbox::run(command).await,
        }
    });
    // Name lookups that hang in the operating system must not hold up the end.
    runtime.shutdown_background();
    outcome
}

async fn run(serve: Serve) -> anyhow::Result<()> {
    start_log(&serve)?;
    // Passwords are in the store: what this process writes is for its user only.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let ephemeral = std::env::temp_dir().join(format!("dms-local-{}", std::process::id()));
    // Held until the end: two processes on one folder would run every task twice.
    let mut _lock = None;
    let (store, folder) = match serve.ephemeral {
        true => (Store::in_memory().await.context("open a store in memory")?, ephemeral.clone()),
        false => {
            let folder = &serve.data_dir;
            _lock = Some(lock_data_dir(folder)?);
            let path = folder.join("state.db");
            let store = Store::open(&path).await.with_context(|| format!("open the store {}", path.display()))?;
            (store, folder.clone())
        }
    };
    let listener = TcpListener::bind(serve.listen).await.with_context(|| format!("listen on {}", serve.listen))?;
    let address = listener.local_addr().context("read the port")?;
    let log_dir = if serve.ephemeral { folder.clone() } else { folder.join("logs") };
    let settings = Settings { settle: serve.settle, log_dir, spool_dir: folder.join("spool") };
    let control = Control::start(store, settings).await.map_err(|fault| anyhow::anyhow!(fault.message))?;
    let control = Arc::new(control);
    // Whoever started this waits for the line; that it has gone is not our trouble.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "dms-local listens on http://{address}").and_then(|()| out.flush());
    let config = server::Config {
        scope: Scope { account: serve.account_id, region: serve.region },
        limits: server::Limits { body_bytes_max: serve.body_bytes_max, ..server::Limits::default() }
            .fitted_to_open_files(),
    };
    server::serve(listener, control.clone(), config, stop_signal()?).await;
    control.stop().await;
    if serve.ephemeral {
        // There is none when no task has run.
        let _ = std::fs::remove_dir_all(ephemeral);
    }
    Ok(())
}

/// Creates the data folder for this user only, as passwords are kept in it, and makes sure nobody else serves from it.
fn lock_data_dir(folder: &Path) -> anyhow::Result<File> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    created.with_context(|| format!("create the data folder {}", folder.display()))?;
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    if file.try_lock().is_err() {
        anyhow::bail!("another dms-local serves from the data folder {}; choose one with --data-dir", folder.display());
    }
    Ok(file)
}

fn start_log(serve: &Serve) -> anyhow::Result<()> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(&serve.log).with_context(|| format!("read --log {}", serve.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match serve.log_json {
        true => log.json().init(),
        false => log.init(),
    }
    Ok(())
}

/// Ends with the first SIGTERM or Ctrl-C.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for Ctrl-C")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
