//! Error packets, and which of DMS's error policies each server error belongs to.

use crate::data::{Error, ErrorKind};

/// The server's error packet as an error. Tolerates the forms without SQLSTATE that servers send before login.
pub(super) fn from_packet(packet: &[u8]) -> Error {
    let Some((&[_, low, high], rest)) = packet.split_first_chunk::<3>() else {
        return malformed("error");
    };
    let code = u16::from_le_bytes([low, high]);
    let (sqlstate, message) = match rest {
        [b'#', a, b, c, d, e, message @ ..] => (String::from_utf8_lossy(&[*a, *b, *c, *d, *e]).into_owned(), message),
        message => ("HY000".to_owned(), message),
    };
    from_server(code, &sqlstate, &String::from_utf8_lossy(message))
}

pub(in crate::connector::mysql) fn from_server(code: u16, sqlstate: &str, message: &str) -> Error {
    Error::new(kind(code, sqlstate), without_values(code, message)).with_native(code.into()).with_sqlstate(sqlstate)
}

pub(super) fn malformed(what: &str) -> Error {
    Error::recoverable(format!("the server sent a malformed {what} packet")).with_native(2027).with_sqlstate("HY000")
}

fn kind(code: u16, sqlstate: &str) -> ErrorKind {
    match code {
        // Login, privileges on the whole server, settings the task cannot live without.
        1044 | 1045 | 1049 | 1129 | 1130 | 1148 | 1193 | 1227 | 1231 | 1251 | 1298 | 1524 | 1698 | 1820 | 1862
        | 1236 | 2059 | 2061 | 3118 | 3159 | 3948 | 4151 | 4166 => ErrorKind::Fatal,
        // Connections, locks, shutdown, disk and memory, read-only servers after a failover. Numbers below 1000 are those
        // of the server's own calls to its operating system.
        1..=999
        | 1021
        | 1030
        | 1037
        | 1038
        | 1040
        | 1041
        | 1053
        | 1077
        | 1079
        | 1114
        | 1152
        | 1154..=1161
        | 1180
        | 1184
        | 1203
        | 1205
        | 1206
        | 1213
        | 1226
        | 1290
        | 1317
        | 1613
        | 1614
        | 1792
        | 1836
        | 1927
        | 1969
        | 2002
        | 2003
        | 2005
        | 2006
        | 2013
        | 3024
        | 4031 => ErrorKind::Recoverable,
        1264 | 1265 | 1406 => ErrorKind::Truncation,
        // A value or a constraint; 1153 and 1301 are rows beyond max_allowed_packet.
        1022
        | 1048
        | 1062
        | 1136
        | 1153
        | 1169
        | 1216
        | 1261..=1263
        | 1292
        | 1300
        | 1301
        | 1366
        | 1367
        | 1411
        | 1416
        | 1452
        | 1526
        | 1557
        | 1586
        | 1690
        | 1748
        | 3140..=3157
        | 3819
        | 4025
        | 4038 => ErrorKind::Data,
        1050 | 1051 | 1054 | 1059 | 1060 | 1064 | 1071 | 1074 | 1103 | 1109 | 1113 | 1115 | 1117 | 1118 | 1142
        | 1143 | 1146 | 1170 | 1273 | 1286 | 1347 | 1356 | 1412 | 1449 => ErrorKind::Table,
        _ => match sqlstate.get(..2) {
            Some("08" | "40") => ErrorKind::Recoverable,
            Some("22" | "23") => ErrorKind::Data,
            Some("28") => ErrorKind::Fatal,
            _ => ErrorKind::Table,
        },
    }
}

/// Servers quote the offending value in some messages; errors of the data plane never hold a row's values.
fn without_values(code: u16, message: &str) -> String {
    match code {
        // "Duplicate entry '…' for key 'PRIMARY'", "Incorrect integer value: '…' for column `s`.`t`.`c` at row 1"
        1062 | 1586 | 1557 => mask(message, "' for key "),
        1292 | 1366 | 1367 | 1411 | 1690 => {
            let masked = mask(message, "' for column ");
            if masked == message { mask_quoted(message) } else { masked }
        }
        1300 => mask_quoted(message),
        _ => message.to_owned(),
    }
}

/// Replaces what stands between the first quote and the last `end` (which begins with a quote).
fn mask(message: &str, end: &str) -> String {
    match (message.find('\''), message.rfind(end)) {
        (Some(from), Some(to)) if from < to => format!("{}'…{}", &message[..from], &message[to..]),
        _ => message.to_owned(),
    }
}

fn mask_quoted(message: &str) -> String {
    match (message.find('\''), message.rfind('\'')) {
        (Some(from), Some(to)) if from < to => format!("{}'…{}", &message[..from], &message[to..]),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_server_errors_into_policies() {
        let cases = [
            (1045, "28000", ErrorKind::Fatal),
            (1049, "42000", ErrorKind::Fatal),
            (3159, "HY000", ErrorKind::Fatal),
            (1040, "08004", ErrorKind::Recoverable),
            (3, "HY000", ErrorKind::Recoverable),
            (1213, "40001", ErrorKind::Recoverable),
            (1290, "HY000", ErrorKind::Recoverable),
            (1406, "22001", ErrorKind::Truncation),
            (1264, "22003", ErrorKind::Truncation),
            (1062, "23000", ErrorKind::Data),
            (3140, "22032", ErrorKind::Data),
            (1146, "42S02", ErrorKind::Table),
            (59_999, "23000", ErrorKind::Data),
            (59_999, "HY000", ErrorKind::Table),
        ];
        for (code, sqlstate, expected) in cases {
            assert_eq!(kind(code, sqlstate), expected, "{code}");
        }
    }

    #[test]
    fn reads_error_packets_with_and_without_sqlstate() {
        let error = from_packet(b"\xff\x15\x04#28000Access denied for user 'x'@'y'");
        assert_eq!((error.native, error.sqlstate.as_deref()), (Some(1045), Some("28000")));
        assert_eq!(error.message, "Access denied for user 'x'@'y'");
        let error = from_packet(b"\xff\x10\x04Too many connections");
        assert_eq!((error.native, error.kind), (Some(1040), ErrorKind::Recoverable));
        assert_eq!(from_packet(b"\xff").native, Some(2027));
    }

    #[test]
    fn keeps_row_values_out_of_messages() {
        let cases = [
            (1062, "Duplicate entry 'it's 'secret'-1' for key 'PRIMARY'", "Duplicate entry '…' for key 'PRIMARY'"),
            (
                1366,
                "Incorrect integer value: 'secret' for column `a`.`t`.`c` at row 1",
                "Incorrect integer value: '…' for column `a`.`t`.`c` at row 1",
            ),
            (1292, "Truncated incorrect DOUBLE value: 'secret'", "Truncated incorrect DOUBLE value: '…'"),
            (1406, "Data too long for column 'c' at row 1", "Data too long for column 'c' at row 1"),
        ];
        for (code, message, expected) in cases {
            assert_eq!(without_values(code, message), expected);
        }
    }
}
