#!/usr/bin/env python3
"""Fills a MariaDB database with a web shop: 18 related tables, 1.2 million rows, every common column type.

    sample_data.py mariadb://user:password@host:port [--schema shop] [--scale 1.0]

The server makes the rows itself from its SEQUENCE engine (a table `seq_1_to_N` for every N), and every value follows
from the row's number by arithmetic and checksums, so two runs give the same data.
"""

import argparse
import re
import time
import urllib.parse

import pymysql

# A row's country, by its number: two letters that spell 1 to 200.
COUNTRY = "(1 + seq % {countries})"
COUNTRY = f"CONCAT(CHAR(65 + {COUNTRY} DIV 26 USING ascii), CHAR(65 + {COUNTRY} % 26 USING ascii))"

# Table, its columns and constraints, how many rows, and the SELECT that makes them. `{name}` is the number of
# rows of the table of this name and `{country}` the expression above; h(k) stands for a checksum of the row's number
# that depends on k, and v(a, b, c) for a in row 1, b in row 2, NULL in every fifth row and c elsewhere.
TABLES = [
    (
        "countries",
        """
        code CHAR(2) CHARACTER SET ascii PRIMARY KEY,
        name VARCHAR(60) NOT NULL,
        local_name VARCHAR(60) CHARACTER SET latin1,
        population INT UNSIGNED,
        area_km2 DOUBLE,
        member BOOLEAN NOT NULL DEFAULT FALSE
        """,
        200,
        """
        CONCAT(CHAR(65 + seq DIV 26 USING ascii), CHAR(65 + seq % 26 USING ascii)), CONCAT('Country ', seq),
        CONCAT('Königreich Ñandú ', seq), h(1), h(2) / 977, seq % 3 = 0
        """,
    ),
    (
        "cities",
        """
        id MEDIUMINT UNSIGNED PRIMARY KEY,
        country CHAR(2) CHARACTER SET ascii NOT NULL,
        name VARCHAR(80) NOT NULL,
        latitude DECIMAL(9, 6),
        longitude DECIMAL(9, 6),
        elevation SMALLINT,
        FOREIGN KEY (country) REFERENCES countries (code)
        """,
        5_000,
        """
        seq, {country},
        CONCAT(ELT(1 + seq % 6, 'São Paulo', '東京', 'Zürich', 'Кіровоград', 'القاهرة', 'Springfield'), ' ', seq),
        (h(1) % 180000000 - 90000000) / 1000000, (h(2) % 360000000 - 180000000) / 1000000, h(3) % 5000 - 400
        """,
    ),
    (
        "customers",
        """
        id BIGINT UNSIGNED PRIMARY KEY AUTO_INCREMENT,
        email VARCHAR(120) NOT NULL UNIQUE,
        full_name VARCHAR(120) NOT NULL,
        birthday DATE,
        joined TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
        credit DECIMAL(12, 2) NOT NULL,
        vip BIT(1) NOT NULL,
        sex ENUM('female', 'male', 'other'),
        interests SET('books', 'films', 'music', 'sports', 'travel') NOT NULL,
        settings JSON,
        phone VARCHAR(30)
        """,
        60_000,
        """
        seq, CONCAT('customer', seq, '@example.com'),
        CONCAT(ELT(1 + seq % 5, 'Ada', 'Björn', 'Chloé', '陈', 'Dmitrij'), ' ', ELT(1 + h(1) % 4, 'Ångström', 'O''Neill', 'Łuczak', '🙂 Smile')),
        IF(seq % 11 = 0, NULL, DATE('1930-01-01') + INTERVAL h(2) % 30000 DAY), TIMESTAMP('2010-01-01') + INTERVAL h(3) % 400000000 SECOND,
        (h(4) % 2000000 - 500000) / 100, seq % 17 = 0, NULLIF(1 + seq % 4, 4), h(5) % 32,
        IF(seq % 7 = 0, NULL, CONCAT('{{"theme": "', ELT(1 + seq % 2, 'dark', 'light'), '", "tags": [', seq % 10, ', null, "é"], "n": ', seq, '}}')),
        CASE seq % 5 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE CONCAT('+49 30 ', h(6) % 10000000) END
        """,
    ),
    (
        "addresses",
        """
        id INT UNSIGNED PRIMARY KEY,
        customer BIGINT UNSIGNED NOT NULL,
        city MEDIUMINT UNSIGNED NOT NULL,
        kind TINYINT UNSIGNED NOT NULL,
        street VARCHAR(200) NOT NULL,
        postcode CHAR(10),
        FOREIGN KEY (customer) REFERENCES customers (id),
        FOREIGN KEY (city) REFERENCES cities (id)
        """,
        90_000,
        """
        seq, 1 + seq % {customers}, 1 + h(1) % {cities}, seq % 256,
        CONCAT(h(2) % 300, ' Straße des 17. Juni', IF(seq % 9 = 0, CONCAT(CHAR(10), 'c/o "Ned, \\\\ & Co"'), '')),
        IF(seq % 13 = 0, NULL, LPAD(h(3) % 100000, 5, '0'))
        """,
    ),
    (
        "categories",
        """
        id TINYINT UNSIGNED PRIMARY KEY,
        parent TINYINT UNSIGNED,
        name VARCHAR(40) NOT NULL,
        position TINYINT NOT NULL,
        FOREIGN KEY (parent) REFERENCES categories (id)
        """,
        200,
        "seq, IF(seq <= 10, NULL, 1 + seq % 10), CONCAT('Category ', seq), seq - 100",
    ),
    (
        "suppliers",
        """
        id SMALLINT UNSIGNED PRIMARY KEY,
        name VARCHAR(80) CHARACTER SET latin1 NOT NULL,
        country CHAR(2) CHARACTER SET ascii NOT NULL,
        opens TIME,
        founded YEAR,
        rating FLOAT,
        FOREIGN KEY (country) REFERENCES countries (code)
        """,
        1_000,
        """
        seq, CONCAT('Fabrik Müller & Söhne N° ', seq), {country},
        SEC_TO_TIME(h(1) % 86400), 1901 + h(2) % 255, IF(seq % 5 = 0, NULL, h(3) / 858993459.2)
        """,
    ),
    (
        "products",
        """
        id INT PRIMARY KEY,
        sku CHAR(12) CHARACTER SET ascii NOT NULL UNIQUE,
        category TINYINT UNSIGNED NOT NULL,
        name VARCHAR(150) NOT NULL,
        description TEXT,
        price DECIMAL(10, 2) NOT NULL,
        weight_kg FLOAT,
        volume_l DOUBLE,
        flags BIT(12) NOT NULL,
        released YEAR,
        digest BINARY(16) NOT NULL,
        thumbnail MEDIUMBLOB,
        FOREIGN KEY (category) REFERENCES categories (id)
        """,
        20_000,
        """
        seq, CONCAT('SKU', LPAD(seq, 9, '0')), 1 + seq % {categories}, CONCAT('Product ', seq, ELT(1 + seq % 3, '', ' ™', ' 🎁')),
        IF(seq % 6 = 0, NULL, REPEAT(CONCAT('A fine thing, № ', seq, ' – tab\\there, "quoted". '), 1 + h(1) % 12)),
        h(2) % 1000000 / 100, h(3) / 1e8, h(4) / 3e7, h(5) % 4096, 1901 + seq % 255, UNHEX(MD5(seq)),
        IF(seq % 4 = 0, NULL, REPEAT(UNHEX(SHA2(seq, 256)), 1 + h(6) % 8))
        """,
    ),
    (
        "product_suppliers",
        """
        product INT NOT NULL,
        supplier SMALLINT UNSIGNED NOT NULL,
        cost DECIMAL(14, 4) NOT NULL,
        lead_days TINYINT UNSIGNED,
        PRIMARY KEY (product, supplier),
        FOREIGN KEY (product) REFERENCES products (id),
        FOREIGN KEY (supplier) REFERENCES suppliers (id)
        """,
        40_000,
        "1 + seq % {products}, 1 + (seq + seq DIV {products}) % {suppliers}, h(1) % 100000000 / 10000, NULLIF(h(2) % 60, 0)",
    ),
    (
        "warehouses",
        """
        code VARCHAR(8) PRIMARY KEY,
        city MEDIUMINT UNSIGNED NOT NULL,
        capacity BIGINT NOT NULL,
        opened DATE NOT NULL,
        FOREIGN KEY (city) REFERENCES cities (id)
        """,
        50,
        "CONCAT('wh-', LPAD(seq, 3, '0')), 1 + h(1) % {cities}, h(2) * 100000, DATE('1000-01-01') + INTERVAL h(3) % 3287181 DAY",
    ),
    (
        "stock",
        """
        warehouse VARCHAR(8) NOT NULL,
        product INT NOT NULL,
        quantity INT NOT NULL,
        counted DATETIME NOT NULL,
        PRIMARY KEY (warehouse, product),
        FOREIGN KEY (warehouse) REFERENCES warehouses (code),
        FOREIGN KEY (product) REFERENCES products (id)
        """,
        100_000,
        """
        CONCAT('wh-', LPAD(1 + seq DIV {products} % {warehouses}, 3, '0')), 1 + seq % {products}, h(1) % 2000000 - 1000000,
        TIMESTAMP('2024-01-01') + INTERVAL h(2) % 31536000 SECOND
        """,
    ),
    (
        "orders",
        """
        id BIGINT PRIMARY KEY,
        customer BIGINT UNSIGNED NOT NULL,
        placed DATETIME(6) NOT NULL,
        status ENUM('new', 'paid', 'shipped', 'returned, partly') NOT NULL,
        total DECIMAL(18, 4),
        note TEXT,
        KEY (customer),
        FOREIGN KEY (customer) REFERENCES customers (id)
        """,
        130_000,
        """
        seq * 1000003, 1 + h(1) % {customers}, TIMESTAMP('2015-06-30 23:59:59.999999') + INTERVAL h(2) % 300000000 SECOND + INTERVAL h(3) % 1000000 MICROSECOND,
        1 + seq % 4, h(4) % 1000000000 / 10000,
        CASE seq % 8 WHEN 0 THEN '' WHEN 1 THEN 'leave at the door, please 🚪' WHEN 2 THEN 'NULL' WHEN 3 THEN '\\\\N' ELSE NULL END
        """,
    ),
    (
        "order_lines",
        """
        `order` BIGINT NOT NULL,
        line SMALLINT NOT NULL,
        product INT NOT NULL,
        quantity SMALLINT UNSIGNED NOT NULL,
        price DECIMAL(10, 2) NOT NULL,
        discount DECIMAL(4, 3),
        PRIMARY KEY (`order`, line),
        FOREIGN KEY (`order`) REFERENCES orders (id),
        FOREIGN KEY (product) REFERENCES products (id)
        """,
        380_000,
        """
        (1 + seq DIV 3 % {orders}) * 1000003, 1 + seq % 3, 1 + h(1) % {products}, 1 + h(2) % 9, h(3) % 1000000 / 100,
        IF(seq % 3 = 0, h(4) % 1000 / 1000, NULL)
        """,
    ),
    (
        "payments",
        """
        id CHAR(36) CHARACTER SET ascii PRIMARY KEY,
        `order` BIGINT NOT NULL,
        method ENUM('card', 'invoice', 'cash') NOT NULL,
        amount DECIMAL(18, 4) NOT NULL,
        paid TIMESTAMP(3) NULL,
        signature VARBINARY(64),
        FOREIGN KEY (`order`) REFERENCES orders (id)
        """,
        110_000,
        """
        INSERT(INSERT(INSERT(INSERT(MD5(seq), 21, 0, '-'), 17, 0, '-'), 13, 0, '-'), 9, 0, '-'), (1 + seq % {orders}) * 1000003, 1 + seq % 3,
        h(1) % 1000000000 / 10000, IF(seq % 10 = 0, NULL, TIMESTAMP('2016-01-01') + INTERVAL h(2) % 250000000 SECOND + INTERVAL seq % 1000 * 1000 MICROSECOND),
        IF(seq % 3 = 0, NULL, UNHEX(SHA2(seq, 256)))
        """,
    ),
    (
        "shipments",
        """
        id INT UNSIGNED PRIMARY KEY,
        `order` BIGINT NOT NULL,
        warehouse VARCHAR(8) NOT NULL,
        picked TIME NOT NULL,
        packing TIME(3),
        weight_kg DOUBLE NOT NULL,
        delivered BOOLEAN,
        FOREIGN KEY (`order`) REFERENCES orders (id),
        FOREIGN KEY (warehouse) REFERENCES warehouses (code)
        """,
        90_000,
        """
        4294967295 - seq, (1 + seq % {orders}) * 1000003, CONCAT('wh-', LPAD(1 + seq % {warehouses}, 3, '0')), SEC_TO_TIME(h(1) % 86400),
        IF(seq % 4 = 0, NULL, SEC_TO_TIME(h(2) % 7200000 / 1000)), h(3) / 7e6, ELT(1 + seq % 3, TRUE, FALSE, NULL)
        """,
    ),
    (
        "reviews",
        """
        id INT PRIMARY KEY,
        product INT NOT NULL,
        customer BIGINT UNSIGNED NOT NULL,
        stars TINYINT NOT NULL,
        body LONGTEXT NOT NULL,
        written TIMESTAMP NOT NULL,
        FOREIGN KEY (product) REFERENCES products (id),
        FOREIGN KEY (customer) REFERENCES customers (id)
        """,
        60_000,
        """
        -seq, 1 + h(1) % {products}, 1 + h(2) % {customers}, 1 + seq % 5,
        REPEAT(CONCAT(ELT(1 + seq % 4, 'Great! 👍🏽 ', 'Schön, 很好. ', 'It''s ok; "meh".\\n', 'Ça marche…\\t'), seq, ' '), 1 + h(3) % 20),
        TIMESTAMP('2018-01-01') + INTERVAL h(4) % 200000000 SECOND
        """,
    ),
    (
        "documents",
        """
        id INT PRIMARY KEY,
        title TINYTEXT,
        icon TINYBLOB,
        preview BLOB,
        scan LONGBLOB,
        body MEDIUMTEXT,
        FOREIGN KEY (id) REFERENCES products (id)
        """,
        400,
        """
        seq, CONCAT('Document ', seq), UNHEX(MD5(seq)), REPEAT(UNHEX(SHA2(seq, 512)), h(1) % 500),
        IF(seq % 5 = 0, NULL, REPEAT(UNHEX('000102030405060708090A0B0C0D0E0F5C27227F80FEFF'), h(2) % 6000)),
        IF(seq % 7 = 0, '', REPEAT(CONCAT('Long text ', seq, ' – 長い文章 📚\\n'), h(3) % 5000))
        """,
    ),
    (
        "all_types",
        """
        id INT PRIMARY KEY,
        c_tinyint TINYINT, c_tinyint_u TINYINT UNSIGNED, c_smallint SMALLINT, c_smallint_u SMALLINT UNSIGNED,
        c_mediumint MEDIUMINT, c_mediumint_u MEDIUMINT UNSIGNED, c_int INT, c_int_u INT UNSIGNED,
        c_bigint BIGINT, c_bigint_u BIGINT UNSIGNED, c_bool BOOLEAN, c_bit1 BIT(1), c_bit24 BIT(24),
        c_decimal DECIMAL(30, 10), c_decimal_0 DECIMAL(18, 0), c_float FLOAT, c_double DOUBLE,
        c_char CHAR(20), c_varchar VARCHAR(255), c_latin1 VARCHAR(100) CHARACTER SET latin1,
        c_tinytext TINYTEXT, c_text TEXT, c_mediumtext MEDIUMTEXT, c_longtext LONGTEXT,
        c_binary BINARY(8), c_varbinary VARBINARY(100), c_tinyblob TINYBLOB, c_blob BLOB, c_mediumblob MEDIUMBLOB, c_longblob LONGBLOB,
        c_date DATE, c_time TIME, c_time6 TIME(6), c_datetime DATETIME, c_datetime6 DATETIME(6),
        c_timestamp TIMESTAMP NULL, c_timestamp6 TIMESTAMP(6) NULL, c_year YEAR,
        c_enum ENUM('a', 'b, with comma', 'ç'), c_set SET('x', 'y', 'z'), c_json JSON
        """,
        1_000,
        # Row 1 holds the smallest of each type, row 2 the greatest, every fifth is NULL throughout.
        """
        seq, v(-128, 127, h(1) % 256 - 128), v(0, 255, h(2) % 256), v(-32768, 32767, h(3) % 65536 - 32768), v(0, 65535, h(4) % 65536),
        v(-8388608, 8388607, h(5) % 16777216 - 8388608), v(0, 16777215, h(6) % 16777216),
        v(-2147483648, 2147483647, h(7) - 2147483648), v(0, 4294967295, h(8)),
        v(-9223372036854775808, 9223372036854775807, h(9) * 1000003 - h(10)), v(0, 9223372036854775807, h(11) * 1000003),
        v(FALSE, TRUE, seq % 2), IF(seq % 5 = 0, NULL, seq % 2), v(0, 16777215, h(12) % 16777216),
        v(-99999999999999999999.9999999999, 99999999999999999999.9999999999, h(13) / 1000000007), v(-999999999999999999, 999999999999999999, h(14)),
        v(-3.402823e38, 3.402823e38, h(15) / 3e5), v(-1.7976931348623157e308, 1.7976931348623157e308, h(16) / 3e-5),
        v('', '😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀', CONCAT('char ', seq)), v('', REPEAT('ß', 255), CONCAT('varchar\\t', seq, '\\n')), v('', 'ÿþäöü', CONCAT('café ', seq)),
        v('', REPEAT('x', 255), 'tiny'), v('', REPEAT('é', 20000), 'text'), v('', REPEAT('漢', 30000), '中'), v('', REPEAT('🎈', 40000), 'long\\\\text'),
        v('', UNHEX('FFFFFFFFFFFFFFFF'), UNHEX(LEFT(MD5(seq), 16))), v('', REPEAT(UNHEX('FF00'), 50), UNHEX(MD5(seq))),
        v('', REPEAT(UNHEX('0A'), 255), UNHEX('00')), v('', REPEAT(UNHEX('5C'), 60000), UNHEX('FF')), v('', REPEAT(UNHEX('09'), 70000), UNHEX('2C')), v('', REPEAT(UNHEX('00'), 100000), UNHEX('5C4E')),
        v('1000-01-01', '9999-12-31', DATE('1900-01-01') + INTERVAL h(17) % 60000 DAY), v('00:00:00', '23:59:59', SEC_TO_TIME(h(18) % 86400)),
        v('00:00:00.000001', '23:59:59.999999', SEC_TO_TIME(h(19) % 86400 + h(20) % 1000000 / 1000000)),
        v('1000-01-01 00:00:00', '9999-12-31 23:59:59', TIMESTAMP('1950-01-01') + INTERVAL h(21) SECOND), v('1000-01-01 00:00:00.000001', '9999-12-31 23:59:59.999999', TIMESTAMP('1950-01-01') + INTERVAL h(22) MICROSECOND),
        v('1970-01-01 00:00:01', '2038-01-19 03:14:07', TIMESTAMP('1990-01-01') + INTERVAL h(23) % 1500000000 SECOND), v('1970-01-01 00:00:01.000001', '2038-01-19 03:14:07.999999', TIMESTAMP('1990-01-01') + INTERVAL h(24) % 1500000000000000 MICROSECOND),
        v(1901, 2155, 1901 + h(25) % 255), v('a', 'ç', 'b, with comma'), v('', 'x,y,z', MAKE_SET(h(26) % 8, 'x', 'y', 'z')), v('null', '{{"a": [1, 2.5, "ü", null, true]}}', CONCAT('[', seq, ']'))
        """,
    ),
    (
        # Without a primary key: tables like this one exist, and rows may be equal.
        "audit_log",
        """
        at DATETIME(3) NOT NULL,
        actor VARCHAR(60),
        action ENUM('login', 'logout', 'buy', 'complain') NOT NULL,
        detail VARCHAR(255),
        KEY (at)
        """,
        110_000,
        """
        TIMESTAMP('2024-01-01') + INTERVAL seq DIV 3 SECOND, IF(seq % 4 = 0, NULL, CONCAT('customer', h(1) % {customers})), 1 + seq % 4,
        IF(seq % 2, CONCAT('ip 10.', h(2) % 256, '.', h(3) % 256, '.', seq % 256), NULL)
        """,
    ),
]


def rows_of(table, scale):
    """How many rows a table gets: the small ones always all of theirs."""
    return table[2] if table[2] <= 5_000 else max(5_000, round(table[2] * scale))


def expand(select, counts):
    """Replaces the abbreviations of a SELECT by SQL."""
    text = select.format(**counts, country=COUNTRY.format(**counts))
    while call := re.search(r"\bv\(", text):
        end, (low, high, other) = split_call(text, call.end())
        case = f"(CASE WHEN seq = 1 THEN {low} WHEN seq = 2 THEN {high} WHEN seq % 5 = 0 THEN NULL ELSE {other} END)"
        text = text[: call.start()] + case + text[end:]
    return re.sub(r"\bh\((\d+)\)", lambda call: f"CAST(CRC32(seq * 31 + {int(call[1]) * 7919}) AS SIGNED)", text)


def split_call(text, start):
    """The end of a call whose arguments begin at `start`, and the arguments; commas in quotes and brackets do not count."""
    arguments, depth, quoted, begin = [], 0, False, start
    for at in range(start, len(text)):
        character = text[at]
        if character == "'":
            quoted = not quoted
        elif quoted:
            continue
        elif character == "(":
            depth += 1
        elif character == ")" and depth > 0:
            depth -= 1
        elif character in ",)" and depth == 0:
            arguments.append(text[begin:at].strip())
            begin = at + 1
            if character == ")":
                return at + 1, arguments
    raise ValueError("the call does not end")


def load(connection, schema, scale, say=print):
    """Makes the schema anew and fills it; returns the number of rows."""
    cursor = connection.cursor()
    cursor.execute(
        "SELECT COUNT(*) FROM information_schema.engines WHERE engine = 'SEQUENCE' AND support IN ('YES', 'DEFAULT')"
    )
    if cursor.fetchone() == (0,):
        raise SystemExit("the sample needs MariaDB with its SEQUENCE engine")
    # A million rows that follow from a script need no binary log, and what refers to each other is right by
    # construction.
    for setting in [
        "sql_log_bin = 0",
        "foreign_key_checks = 0",
        "unique_checks = 0",
        "time_zone = '+00:00'",
        "names utf8mb4",
    ]:
        cursor.execute(f"SET {setting}")
    cursor.execute(f"DROP DATABASE IF EXISTS `{schema}`")
    cursor.execute(f"CREATE DATABASE `{schema}` CHARACTER SET utf8mb4")
    cursor.execute(f"USE `{schema}`")
    counts = {table[0]: rows_of(table, scale) for table in TABLES}
    total = 0
    for name, columns, _, select in TABLES:
        started = time.monotonic()
        cursor.execute(f"CREATE TABLE `{name}` ({columns})")
        numbers = f"(SELECT CAST(seq AS SIGNED) AS seq FROM seq_1_to_{counts[name]}) AS numbers"
        cursor.execute(f"INSERT INTO `{name}` SELECT {expand(select, counts)} FROM {numbers}")
        connection.commit()
        total += counts[name]
        say(f"  {name:<18} {counts[name]:>9,} rows  {time.monotonic() - started:5.1f} s")
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", help="mariadb://user:password@host:port")
    parser.add_argument("--schema", default="shop")
    parser.add_argument("--scale", type=float, default=1.0, help="how many of the 1.2 million rows")
    arguments = parser.parse_args()
    url = urllib.parse.urlsplit(arguments.database)
    connection = pymysql.connect(
        host=url.hostname,
        port=url.port or 3306,
        user=urllib.parse.unquote(url.username or ""),
        password=urllib.parse.unquote(url.password or ""),
        charset="utf8mb4",
    )
    started = time.monotonic()
    total = load(connection, arguments.schema, arguments.scale)
    print(f"  {len(TABLES)} tables, {total:,} rows in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
