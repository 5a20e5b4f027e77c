use clap::{Parser, Subcommand};
use dms_local::sandbox;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(subcommand)]
    Sandbox(sandbox::Command),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Sandbox(command) => sandbox::run(command).await,
    }
}
