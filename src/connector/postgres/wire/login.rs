//! Opening a session: TLS, start-up, authentication, and the settings every session of ours has.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Client, ERROR, Input, READY, ServerError, broken, lost};
use crate::connector::net::{self, Socket, Stream};
use crate::connector::postgres::Settings;
use crate::connector::{Connection, SslMode};
use crate::data::{Error, Result};

const AUTHENTICATION: u8 = b'R';
const BACKEND_KEY: u8 = b'K';

/// Text forms that do not depend on the configuration of the server, the database or the role and lose nothing; no time
/// limits of theirs that a long load would run into; no notices, because a server that waits for us to read them while
/// we write to it would wait for ever.
const SESSION: [(&str, &str); 10] = [
    ("standard_conforming_strings", "on"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("IntervalStyle", "postgres"),
    ("xmloption", "content"),
    ("array_nulls", "on"),
    ("quote_all_identifiers", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("client_min_messages", "error"),
];

/// What else the text of a log depends on. Names of types are whole unless they are built in; money is of one locale.
pub const LOG_SESSION: &str = "SET search_path = pg_catalog; SET lc_monetary = 'C'";

/// Versions since which there is something else to set.
const IDLE_TIMEOUT_SINCE: u32 = 90_600;
/// Before it a session of the replication protocol takes no SQL.
pub const REPLICATION_SQL_SINCE: u32 = 100_000;
const TRANSACTION_TIMEOUT_SINCE: u32 = 170_000;

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Statements,
    /// Statements and the commands of the streaming replication protocol.
    Replication,
}

impl Client {
    /// Connects and logs in.
    pub async fn connect(connection: &Connection, settings: &Settings, purpose: Purpose) -> Result<Client> {
        let stream = net::connect(&connection.server, connection.port).await?;
        match tokio::time::timeout(net::CONNECT_TIMEOUT, Client::start(stream, connection, settings, purpose)).await {
            Ok(client) => client,
            Err(_) => Err(Error::recoverable(format!(
                "connection to {} port {} failed: no answer in {} s",
                connection.server,
                connection.port,
                net::CONNECT_TIMEOUT.as_secs()
            ))),
        }
    }

    async fn start(stream: Socket, connection: &Connection, settings: &Settings, purpose: Purpose) -> Result<Client> {
        let stream = match connection.ssl_mode {
            SslMode::None => Stream::Plain(stream),
            _ => encrypt(stream, connection).await?,
        };
        let mut client = Client {
            stream,
            input: Input::new(),
            message: 0..0,
            output: BytesMut::new(),
            server: connection.server.clone(),
            port: connection.port,
            key: None,
            version: 0,
            pending: 1,
            refusal: None,
            warning: None,
            row_left: None,
            timeout: settings.execute_timeout,
        };
        client.log_in(connection, purpose).await?;
        if purpose == Purpose::Replication && client.version < REPLICATION_SQL_SINCE {
            return Ok(client);
        }
        let set = |(name, value): &(&str, &str)| format!("SET {name} = {value}");
        client.query(&SESSION.each_ref().map(set).join("; ")).await?;
        if client.version >= IDLE_TIMEOUT_SINCE {
            client.query("SET idle_in_transaction_session_timeout = 0").await?;
        }
        if client.version >= TRANSACTION_TIMEOUT_SINCE {
            client.query("SET transaction_timeout = 0").await?;
        }
        if let Some(script) = &settings.after_connect_script {
            client.query(script).await.map_err(|error| error.while_doing("AfterConnectScript"))?;
        }
        Ok(client)
    }

    async fn log_in(&mut self, connection: &Connection, purpose: Purpose) -> Result<()> {
        // PostgreSQL takes the user's name for the database's where none is given.
        let database = if connection.database.is_empty() { &connection.user } else { &connection.database };
        let parameters = [
            ("user", connection.user.as_str()),
            ("database", database),
            ("application_name", "dms-local"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "UTC"),
        ];
        let set = |(name, value): &(&str, &str)| format!("-c {name}={value}");
        let options = SESSION.each_ref().map(set).join(" ") + " -c search_path=pg_catalog -c lc_monetary=C";
        let replication = [("replication", "database"), ("options", options.as_str())];
        let replication = replication.into_iter().filter(|_| purpose == Purpose::Replication);
        frontend::startup_message(parameters.into_iter().chain(replication), &mut self.output)
            .map_err(|_| Error::fatal("the user or database name holds a zero byte"))?;
        self.flush().await?;
        let mut scram = None;
        loop {
            match self.receive().await? {
                AUTHENTICATION => self.authenticate(connection, &mut scram).await?,
                BACKEND_KEY => {
                    if let Some((process, secret)) = self.payload().split_first_chunk::<4>()
                        && let Some(secret) = secret.first_chunk::<4>()
                    {
                        self.key = Some((i32::from_be_bytes(*process), i32::from_be_bytes(*secret)));
                    }
                }
                ERROR => return Err(ServerError::parse(self.payload()).into_login_error()),
                READY => return Ok(()),
                _ => {}
            }
        }
    }

    async fn authenticate(&mut self, connection: &Connection, scram: &mut Option<ScramSha256>) -> Result<()> {
        let refused = |error: std::io::Error| Error::fatal(format!("authentication failed: {error}"));
        let password = connection.password.expose();
        let (method, data) = self.payload().split_first_chunk::<4>().ok_or_else(|| broken("a malformed message"))?;
        match u32::from_be_bytes(*method) {
            0 => return Ok(()),
            3 => frontend::password_message(password.as_bytes(), &mut self.output).map_err(refused)?,
            5 => {
                let salt = *data.first_chunk::<4>().ok_or_else(|| broken("a malformed message"))?;
                let hash = md5_hash(connection.user.as_bytes(), password.as_bytes(), salt);
                frontend::password_message(hash.as_bytes(), &mut self.output).map_err(refused)?;
            }
            10 => {
                if !data.split(|byte| *byte == 0).any(|mechanism| mechanism == SCRAM_SHA_256.as_bytes()) {
                    return Err(Error::fatal("the server asks for an authentication method that is not supported"));
                }
                let exchange = scram.insert(ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported()));
                frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), &mut self.output)
                    .map_err(refused)?;
            }
            11 => {
                let exchange = scram.as_mut().ok_or_else(|| broken("an answer out of turn"))?;
                exchange.update(&self.input.buffer[self.message.start + 4..self.message.end]).map_err(refused)?;
                frontend::sasl_response(exchange.message(), &mut self.output).map_err(refused)?;
            }
            12 => {
                let exchange = scram.as_mut().ok_or_else(|| broken("an answer out of turn"))?;
                return exchange.finish(data).map_err(refused);
            }
            _ => return Err(Error::fatal("the server asks for an authentication method that is not supported")),
        }
        self.flush().await
    }
}

/// Asks the server for TLS and starts it. The answer is read alone, so nothing that comes after it unencrypted can be
/// taken for part of the session.
async fn encrypt(mut stream: Socket, connection: &Connection) -> Result<Stream> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(|error| lost(&error))?;
    match stream.read_u8().await.map_err(|error| lost(&error))? {
        b'S' => net::encrypt(stream, &connection.server, connection.ssl_mode, connection.ca_pem.as_deref()).await,
        _ => Err(Error::fatal("the server does not support SSL connections")),
    }
}
