"""The database servers of a benchmark, and the table that it moves."""

import os
import subprocess
import sys

ENGINES = ["postgres", "mariadb"]
DIRECTIONS = ["postgres-postgres", "mariadb-postgres", "postgres-mariadb", "mariadb-mariadb"]

# As in TPC-H, in words that both engines understand; about 140 bytes a row.
COLUMNS = """
    l_orderkey bigint NOT NULL, l_partkey bigint NOT NULL, l_suppkey bigint NOT NULL, l_linenumber integer NOT NULL,
    l_quantity numeric(15, 2) NOT NULL, l_extendedprice numeric(15, 2) NOT NULL, l_discount numeric(15, 2) NOT NULL,
    l_tax numeric(15, 2) NOT NULL, l_returnflag char(1) NOT NULL, l_linestatus char(1) NOT NULL, l_shipdate date NOT NULL,
    l_commitdate date NOT NULL, l_receiptdate date NOT NULL, l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL,
    l_comment varchar(44) NOT NULL
"""
PRIMARY_KEY = "PRIMARY KEY (l_orderkey, l_linenumber)"


def run(command, check=True, **options):
    """Runs a command without input and returns what it prints."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    if check and done.returncode != 0:
        sys.exit(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


class Server:
    """One database server of the sandbox, used through its own client."""

    def __init__(self, fields):
        vars(self).update(fields)
        self.environment = os.environ | {"PGPASSWORD": self.password, "MYSQL_PWD": self.password}

    @property
    def is_postgres(self):
        return self.engine == "postgres"

    def client(self, database):
        """The client's command line, without the SQL."""
        if self.is_postgres:
            return f"psql -X -q -v ON_ERROR_STOP=1 -h {self.host} -p {self.port} -U {self.user} -d {database}"
        return f"mariadb --no-defaults --local-infile=1 -h {self.host} -P {self.port} -u {self.user} -D {database}"

    def sql(self, statement, database=None):
        flags = ["-At", "-F", "\t", "-c", statement] if self.is_postgres else ["-N", "-B", "-e", statement]
        return run([*self.client(database or self.database).split(), *flags], env=self.environment).strip()

    def connect(self, database):
        """A connection of the plain Python driver, committing each statement."""
        if self.is_postgres:
            import psycopg

            return psycopg.connect(
                host=self.host, port=self.port, user=self.user, password=self.password, dbname=database, autocommit=True
            )
        import pymysql

        return pymysql.connect(
            host=self.host, port=self.port, user=self.user, password=self.password, database=database, autocommit=True
        )

    def url(self, database):
        scheme = "postgresql" if self.is_postgres else "mysql"
        return f"{scheme}://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    def endpoint(self, kind, database):
        endpoint = {
            "EndpointIdentifier": f"{kind}-{self.name}", "EndpointType": kind, "EngineName": self.engine, "ServerName": self.host,
            "Port": self.port, "Username": self.user, "Password": self.password,
        }  # fmt: skip
        return endpoint | ({"DatabaseName": database} if self.is_postgres else {})


def fill(server, rows):
    """Makes the source table in the database `bench` unless it is there with as many rows; the server makes the rows."""
    have = (
        server.sql("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'lineitem'", "bench")
        if exists(server)
        else "0"
    )
    if have == "1" and server.sql("SELECT COUNT(*) FROM lineitem", "bench") == str(rows):
        return
    # From the row's number n by arithmetic, the same in both engines.
    n = "n" if server.is_postgres else "seq"
    date = "DATE '1992-01-01' + CAST({0} AS integer)" if server.is_postgres else "DATE '1992-01-01' + INTERVAL {0} DAY"
    quantity, price = f"1 + {n} * 7919 % 50", f"(90000 + {n} * 104729 % 10000000) / 100.0"
    ship = f"{n} * 31 % 2500"
    choose = "(ARRAY[{1}])[1 + {0}]" if server.is_postgres else "ELT(1 + {0}, {1})"
    select = ", ".join([
        f"1 + ({n} - 1) / 4" if server.is_postgres else f"1 + ({n} - 1) DIV 4",
        f"1 + {n} * 7907 % 600000", f"1 + {n} * 7901 % 30000", f"1 + ({n} - 1) % 4", quantity, price,
        f"{n} % 11 / 100.0", f"{n} % 9 / 100.0", choose.format(f"({n} % 3)", "'A', 'N', 'R'"), choose.format(f"({n} % 2)", "'F', 'O'"),
        date.format(f"({ship})"), date.format(f"({ship} + {n} % 60)"), date.format(f"({ship} + 1 + {n} % 30)"),
        choose.format(f"({n} % 4)", "'DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'"),
        choose.format(f"({n} % 7)", "'REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB'"),
        f"SUBSTR(CONCAT(MD5(CAST({n} AS char(20))), ' final deposits'), 1, CAST(10 + {n} % 35 AS {'integer' if server.is_postgres else 'signed'}))",
    ])  # fmt: skip
    numbers = (
        f"generate_series(1::bigint, {rows}) AS n"
        if server.is_postgres
        else f"(SELECT CAST(seq AS signed) AS seq FROM seq_1_to_{rows}) AS numbers"
    )
    new_database(server, "bench")
    if server.is_postgres:
        server.sql(f"CREATE TABLE lineitem ({COLUMNS})", "bench")
        server.sql(f"INSERT INTO lineitem SELECT {select} FROM {numbers}", "bench")
        server.sql(f"ALTER TABLE lineitem ADD {PRIMARY_KEY}", "bench")
        server.sql("VACUUM (ANALYZE, FREEZE) lineitem", "bench")
    else:
        server.sql(
            f"CREATE TABLE lineitem ({COLUMNS}, {PRIMARY_KEY}); SET sql_log_bin = 0; INSERT INTO lineitem SELECT {select} FROM {numbers}",
            "bench",
        )


def exists(server):
    names = "SELECT datname FROM pg_database" if server.is_postgres else "SHOW DATABASES"
    return "bench" in server.sql(names).split()


def new_database(server, name):
    server.sql(f"DROP DATABASE IF EXISTS {name}" + (" (FORCE)" if server.is_postgres else ""))
    server.sql(f"CREATE DATABASE {name}" + ("" if server.is_postgres else " CHARACTER SET utf8mb4"))
