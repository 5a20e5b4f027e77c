//! Logging in: the server's greeting, TLS, and the authentication plugins of MySQL and MariaDB.

use data_encoding::BASE64;
use mysql_common::constants::CapabilityFlags;
use mysql_common::packets::{AuthPlugin, HandshakeResponse, SslRequest};
use mysql_common::proto::MySerialize;
use mysql_common::scramble::{create_response_for_ed25519, scramble_native, scramble_sha256};

use super::failure::{from_packet, malformed};
use super::packet::Packets;
use crate::connector::{Connection, SslMode, net};
use crate::data::{Error, Result};

/// utf8mb4_general_ci: known to every server since 5.5.3.
const COLLATION: u8 = 45;
const PACKET_MAX: u32 = 1 << 30;

/// What the server says of itself before anybody logs in.
pub(super) struct Greeting {
    pub(super) connection_id: u32,
    capabilities: CapabilityFlags,
    nonce: Vec<u8>,
    plugin: String,
}

/// Reads the greeting, encrypts if the endpoint asks for it, and logs in. `wanted` is what this session needs more than
/// others.
pub(super) async fn log_in(
    packets: &mut Packets,
    connection: &Connection,
    wanted: CapabilityFlags,
) -> Result<Greeting> {
    let greeting = parse_greeting(packets.packet().await?)?;
    let wanted = wanted | capabilities(connection);
    // A server that ignores what it does not know is sent only what it offered.
    let agreed = wanted & (greeting.capabilities | CapabilityFlags::CLIENT_CONNECT_WITH_DB);
    if connection.ssl_mode != SslMode::None {
        encrypt(packets, connection, &greeting, agreed).await?;
    }
    let mut login = Login { packets, connection, plugin: greeting.plugin.clone(), nonce: greeting.nonce.clone() };
    login.answer_greeting(agreed).await?;
    let offered = greeting.capabilities.contains(CapabilityFlags::CLIENT_SSL);
    match login.follow().await {
        Err(error) if offered && connection.ssl_mode == SslMode::None => Err(may_require_tls(error)),
        followed => followed.map(|()| greeting),
    }
}

/// A server refuses an account that requires TLS in the same words as a wrong password.
fn may_require_tls(mut error: Error) -> Error {
    if error.sqlstate.as_deref() == Some("28000") {
        error.message.push_str(": the server or the account may require TLS, and SslMode is none");
    }
    error
}

fn capabilities(connection: &Connection) -> CapabilityFlags {
    let mut flags = CapabilityFlags::CLIENT_LONG_PASSWORD
        | CapabilityFlags::CLIENT_LONG_FLAG
        | CapabilityFlags::CLIENT_PROTOCOL_41
        | CapabilityFlags::CLIENT_TRANSACTIONS
        | CapabilityFlags::CLIENT_SECURE_CONNECTION
        | CapabilityFlags::CLIENT_MULTI_RESULTS
        | CapabilityFlags::CLIENT_PLUGIN_AUTH
        | CapabilityFlags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA;
    flags.set(CapabilityFlags::CLIENT_CONNECT_WITH_DB, !connection.database.is_empty());
    flags.set(CapabilityFlags::CLIENT_SSL, connection.ssl_mode != SslMode::None);
    flags
}

async fn encrypt(
    packets: &mut Packets,
    connection: &Connection,
    greeting: &Greeting,
    agreed: CapabilityFlags,
) -> Result<()> {
    if !greeting.capabilities.contains(CapabilityFlags::CLIENT_SSL) {
        return Err(Error::fatal("SSL connection error: the server does not support SSL")
            .with_native(2026)
            .with_sqlstate("HY000"));
    }
    let mut request = Vec::new();
    SslRequest::new(agreed, PACKET_MAX, COLLATION).serialize(&mut request);
    packets.send(&request).await?;
    let plain = packets.take_plain()?;
    let stream = net::encrypt(plain, &connection.server, connection.ssl_mode, connection.ca_pem.as_deref()).await?;
    packets.set_stream(stream);
    Ok(())
}

/// By hand, not by `mysql_common`: its parser overflows on some lengths that a broken server can send.
fn parse_greeting(packet: &[u8]) -> Result<Greeting> {
    match packet.first() {
        Some(10) => {}
        Some(0xFF) => return Err(from_packet(packet)),
        Some(_) => return Err(Error::fatal("the server does not speak version 10 of the MySQL protocol")),
        None => return Err(malformed("greeting")),
    }
    parse_greeting_v10(&packet[1..]).ok_or_else(|| malformed("greeting"))
}

fn parse_greeting_v10(body: &[u8]) -> Option<Greeting> {
    let (_version, rest) = split_null(body)?;
    let (id, rest) = rest.split_first_chunk::<4>()?;
    let (nonce_start, rest) = rest.split_first_chunk::<8>()?;
    let (&[_, low_a, low_b, _, _, _, high_a, high_b, _], rest) = rest.split_first_chunk::<9>()?;
    let bits = u32::from_le_bytes([low_a, low_b, high_a, high_b]);
    let rest = rest.get(10..)?;
    let capabilities = CapabilityFlags::from_bits_truncate(bits);
    // Every plugin's nonce is 20 bytes long here, whatever the greeting's length byte says: 8 and then 12 and a NUL.
    let mut nonce = nonce_start.to_vec();
    nonce.extend_from_slice(rest.get(..12)?);
    let plugin = rest.get(13..).unwrap_or_default();
    let plugin = plugin.split(|byte| *byte == 0).next().unwrap_or_default();
    let plugin = if capabilities.contains(CapabilityFlags::CLIENT_PLUGIN_AUTH) && !plugin.is_empty() {
        String::from_utf8_lossy(plugin).into_owned()
    } else {
        "mysql_native_password".to_owned()
    };
    Some(Greeting { connection_id: u32::from_le_bytes(*id), capabilities, nonce, plugin })
}

fn split_null(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

struct Login<'a> {
    packets: &'a mut Packets,
    connection: &'a Connection,
    plugin: String,
    nonce: Vec<u8>,
}

impl Login<'_> {
    async fn answer_greeting(&mut self, agreed: CapabilityFlags) -> Result<()> {
        // The server's default plugin need not be the account's: a plugin we do not know may never be used.
        if self.first_answer().is_err() {
            "mysql_native_password".clone_into(&mut self.plugin);
        }
        let answer = self.first_answer()?;
        let database = self.connection.database.as_bytes();
        let response = HandshakeResponse::new(
            Some(answer),
            (5, 5, 3),
            Some(self.connection.user.as_bytes()),
            (!database.is_empty()).then_some(database),
            Some(AuthPlugin::from_bytes(self.plugin.as_bytes())),
            agreed,
            None,
            PACKET_MAX,
        );
        let mut payload = Vec::new();
        response.serialize(&mut payload);
        self.packets.send(&payload).await
    }

    /// Answers what the server asks until it says yes or no.
    async fn follow(&mut self) -> Result<()> {
        // A handful of exchanges at most; a server that keeps asking is not one.
        for _ in 0..8 {
            let packet = self.packets.packet().await?.to_vec();
            match packet.split_first() {
                Some((0x00, _)) => return Ok(()),
                Some((0xFF, _)) => return Err(from_packet(&packet)),
                Some((0xFE, [])) => return Err(self.unsupported("mysql_old_password")),
                Some((0xFE, switch)) => self.switch(switch).await?,
                Some((0x01, more)) => self.more(more).await?,
                _ => return Err(malformed("authentication")),
            }
        }
        Err(malformed("authentication"))
    }

    async fn switch(&mut self, request: &[u8]) -> Result<()> {
        let (plugin, nonce) = split_null(request).ok_or_else(|| malformed("authentication"))?;
        self.plugin = String::from_utf8_lossy(plugin).into_owned();
        self.nonce = nonce.strip_suffix(&[0]).unwrap_or(nonce).to_vec();
        let answer = self.first_answer()?;
        self.packets.send(&answer).await
    }

    fn first_answer(&self) -> Result<Vec<u8>> {
        let password = self.password();
        Ok(match self.plugin.as_str() {
            "mysql_native_password" => scramble_native(&self.nonce, password).map_or(Vec::new(), |hash| hash.to_vec()),
            "caching_sha2_password" => scramble_sha256(&self.nonce, password).map_or(Vec::new(), |hash| hash.to_vec()),
            "client_ed25519" => create_response_for_ed25519(password, &self.nonce).to_vec(),
            "mysql_clear_password" if self.encrypted() => self.terminated(),
            "mysql_clear_password" => {
                return Err(Error::fatal("the account's password would go over the network in clear: use SSL"));
            }
            "sha256_password" if password.is_empty() => vec![0],
            "sha256_password" if self.encrypted() => self.terminated(),
            // 1 asks for the server's public key.
            "sha256_password" => vec![1],
            other => return Err(self.unsupported(other)),
        })
    }

    async fn more(&mut self, data: &[u8]) -> Result<()> {
        const FAST_OK: u8 = 3;
        const FULL: u8 = 4;
        const REQUEST_KEY: u8 = 2;
        match (self.plugin.as_str(), data) {
            ("caching_sha2_password", [FAST_OK]) => Ok(()),
            ("caching_sha2_password", [FULL]) if self.encrypted() => {
                let password = self.terminated();
                self.packets.send(&password).await
            }
            ("caching_sha2_password", [FULL]) => self.packets.send(&[REQUEST_KEY]).await,
            ("caching_sha2_password" | "sha256_password", key) if key.starts_with(b"-----BEGIN") => {
                let encrypted = encrypt_password(self.password(), &self.nonce, key)?;
                self.packets.send(&encrypted).await
            }
            _ => Err(malformed("authentication")),
        }
    }

    fn password(&self) -> &[u8] {
        self.connection.password.expose().as_bytes()
    }

    fn terminated(&self) -> Vec<u8> {
        [self.password(), &[0]].concat()
    }

    fn encrypted(&self) -> bool {
        self.connection.ssl_mode != SslMode::None
    }

    fn unsupported(&self, plugin: &str) -> Error {
        Error::fatal(format!("Authentication plugin '{plugin}' cannot be loaded: dms-local does not have it"))
            .with_native(2059)
            .with_sqlstate("HY000")
    }
}

/// The password, hidden by the nonce and encrypted for the server's RSA key.
fn encrypt_password(password: &[u8], nonce: &[u8], key: &[u8]) -> Result<Vec<u8>> {
    let pem = checked_key(key, password.len() + 1).ok_or_else(|| Error::fatal("the server's RSA key is not usable"))?;
    if nonce.is_empty() {
        return Err(malformed("authentication"));
    }
    let hidden: Vec<u8> = password.iter().chain(&[0]).zip(nonce.iter().cycle()).map(|(a, b)| a ^ b).collect();
    Ok(mysql_common::crypto::encrypt(&hidden, pem.as_bytes()))
}

/// `mysql_common` panics on keys that are not well-formed or too short, so this looks through the key first and gives
/// it back in the one form that has been looked at.
fn checked_key(pem: &[u8], message_len: usize) -> Option<String> {
    const OAEP_OVERHEAD: usize = 42;
    let text = std::str::from_utf8(pem).ok()?;
    let body = text.split("-----BEGIN PUBLIC KEY-----").nth(1)?.split("-----END PUBLIC KEY-----").next()?;
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let der = BASE64.decode(body.as_bytes()).ok()?;
    let (outer, []) = element(0x30, &der)? else { return None };
    let (_, rest) = element(0x30, outer)?;
    let (bits, []) = element(0x03, rest)? else { return None };
    let (0, key) = bits.split_first().map(|(unused, key)| (*unused, key))? else { return None };
    let (numbers, []) = element(0x30, key)? else { return None };
    let (modulus, rest) = element(0x02, numbers)?;
    let (exponent, []) = element(0x02, rest)? else { return None };
    let modulus = &modulus[modulus.iter().position(|byte| *byte != 0)?..];
    let sound = (128..=2048).contains(&modulus.len())
        && modulus[0] >= 0x80
        && message_len + OAEP_OVERHEAD <= modulus.len()
        && exponent.len() <= 8
        && exponent.iter().any(|byte| *byte != 0);
    sound.then(|| format!("-----BEGIN PUBLIC KEY-----{body}-----END PUBLIC KEY-----"))
}

/// Content of the DER element at the start of `der`, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk::<2>()?;
    let (len, rest) = match first {
        0..=0x7F => (first as usize, rest),
        0x81 => (*rest.first()? as usize, &rest[1..]),
        0x82 => (u16::from_be_bytes(*rest.first_chunk()?) as usize, &rest[2..]),
        _ => return None,
    };
    (found == tag && len <= rest.len()).then(|| rest.split_at(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = include_str!("testdata/rsa-2048-public.pem");

    #[test]
    fn reads_the_greetings_of_mysql_and_mariadb() {
        let mut packet = vec![10];
        packet.extend_from_slice(b"8.4.3\0\x2a\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15");
        packet.extend_from_slice(&[0; 10]);
        packet.extend_from_slice(b"ijklmnopqrst\0caching_sha2_password\0");
        let greeting = parse_greeting(&packet).unwrap();
        assert_eq!(greeting.connection_id, 42);
        assert_eq!(greeting.nonce, b"abcdefghijklmnopqrst");
        assert_eq!(greeting.plugin, "caching_sha2_password");
        assert_eq!(parse_greeting(b"\xff\x6a\x04Host 'x' is blocked").err().unwrap().native, Some(1130));
    }

    #[test]
    fn encrypts_for_a_sound_key_only() {
        assert_eq!(encrypt_password(b"secret", &[7; 20], KEY.as_bytes()).unwrap().len(), 256);
        assert!(encrypt_password(&[b'x'; 300], &[7; 20], KEY.as_bytes()).is_err());
        assert!(encrypt_password(b"secret", &[], KEY.as_bytes()).is_err());
        assert!(encrypt_password(b"secret", &[7; 20], b"-----BEGIN PUBLIC KEY-----").is_err());
    }

    proptest! {
        #[test]
        fn never_panics_on_what_a_server_sends(bytes in prop::collection::vec(any::<u8>(), 0..120), at in 0usize..300) {
            let _ = parse_greeting(&bytes);
            let mut packet = vec![10];
            packet.extend_from_slice(&bytes);
            let _ = parse_greeting(&packet);
            let mut key = KEY.as_bytes().to_vec();
            let at = at % key.len();
            key.splice(at..at, bytes);
            let _ = encrypt_password(b"secret", &[1; 20], &key);
        }
    }
}
