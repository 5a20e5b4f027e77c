//! The command line: low-level arguments in, validated settings out.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};

use crate::sandbox;

/// A local AWS Database Migration Service: the DMS API on a local URL, backed by real replication.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the DMS API until told to stop.
    Serve(Serve),
    /// Throw-away database servers from the machine's installed binaries.
    #[command(subcommand)]
    Sandbox(sandbox::Command),
}

#[derive(Args, Debug)]
pub struct Serve {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, env = "DMS_LOCAL_LISTEN", default_value = "127.0.0.1:4580")]
    pub listen: SocketAddr,
    /// Folder of the state and the task logs, created where it is missing.
    #[arg(long, env = "DMS_LOCAL_DATA_DIR", default_value = ".dms-local")]
    pub data_dir: PathBuf,
    /// Keep the state in memory and forget it at the end; there is no data folder then.
    #[arg(long, env = "DMS_LOCAL_EPHEMERAL", value_parser = BoolishValueParser::new())]
    pub ephemeral: bool,
    /// Region of requests whose signature names none.
    #[arg(long, env = "DMS_LOCAL_REGION", default_value = "us-east-1")]
    pub region: String,
    /// Account of requests whose access key id is not a 12-digit account id.
    #[arg(long, env = "DMS_LOCAL_ACCOUNT_ID", default_value = "123456789012", value_parser = account_id)]
    pub account_id: String,
    /// Seconds for which a describe of one resource waits for a status that is about to change; 0 never waits.
    #[arg(long, env = "DMS_LOCAL_SETTLE", default_value = "1", value_parser = seconds)]
    pub settle: Duration,
    /// Least important messages to log, as in `info` or `dms_local=debug`.
    #[arg(long, env = "DMS_LOCAL_LOG", default_value = "warn")]
    pub log: String,
    /// Write the log as JSON, a line a message.
    #[arg(long, env = "DMS_LOCAL_LOG_JSON", value_parser = BoolishValueParser::new())]
    pub log_json: bool,
    /// The largest request body that is read, in bytes.
    #[arg(long, env = "DMS_LOCAL_BODY_BYTES_MAX", default_value_t = 10 << 20)]
    pub body_bytes_max: usize,
}

fn account_id(text: &str) -> Result<String, String> {
    match text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(text.to_owned()),
        false => Err("an account id has 12 digits".into()),
    }
}

/// A describe that waits longer than this would meet clients' own timeouts.
const SETTLE_MAX_S: f64 = 30.0;

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=SETTLE_MAX_S).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("seconds between 0 and {SETTLE_MAX_S}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(arguments: &[&str]) -> Result<Serve, String> {
        let words = ["dms-local", "serve"].iter().chain(arguments);
        match Arguments::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Serve(serve) => Ok(serve),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn arguments_are_checked() {
        assert_eq!(serve(&[]).unwrap().settle, Duration::from_secs(1));
        assert_eq!(serve(&["--settle", "0.25"]).unwrap().settle, Duration::from_millis(250));
        for bad in [&["--settle", "-1"][..], &["--settle", "x"], &["--account-id", "123"], &["--listen", "nowhere"]] {
            assert!(serve(bad).is_err(), "{bad:?}");
        }
    }
}
