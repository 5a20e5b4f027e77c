#!/usr/bin/env python3
"""Changes the sample in MariaDB for some seconds, as a shop and its administrator do.

    workload.py mariadb://user:password@host:port [--schema shop] [--seconds 10] [--rate 150] [--seed 1]

Customers order, pay, return and complain in transactions over several tables; some are rolled back, in whole or in
part. Keys change, too, and values of every type. Meanwhile an administrator creates, alters, empties and drops tables.

What was committed is counted by table, so that it can be compared with the statistics of a task that follows.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import itertools
import random
import threading
import time
import urllib.parse
import uuid

import pymysql
import pymysql.constants.ER

# The kinds of changes, as DescribeTableStatistics names them.
KINDS = ("Inserts", "Updates", "Deletes", "Ddls")

# How many customers are in the shop at once. Each has a connection.
CUSTOMERS = 4

# Of so many transactions one is rolled back in its end.
ROLLED_BACK_ONE_OF = 12

# What the administrator makes and leaves behind. The last row of a workload goes here.
LAST_TABLE = "coupons"

# Where customers get into each other's way, the database ends the transaction of one of them.
EXPECTED_ERRORS = {
    pymysql.constants.ER.LOCK_DEADLOCK,
    pymysql.constants.ER.LOCK_WAIT_TIMEOUT,
    pymysql.constants.ER.DUP_ENTRY,
    pymysql.constants.ER.ROW_IS_REFERENCED_2,
    pymysql.constants.ER.NO_REFERENCED_ROW_2,
    pymysql.constants.ER.CHECKREAD,
}


@dataclasses.dataclass
class Committed:
    """What a workload has committed."""

    transactions: int = 0
    rolled_back: int = 0
    # By table and kind.
    changes: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, other):
        self.transactions += other.transactions
        self.rolled_back += other.rolled_back
        self.changes += other.changes

    def of(self, kind):
        return sum(count for (_, its_kind), count in self.changes.items() if its_kind == kind)


class Session:
    """A connection to the source that counts what its transactions change."""

    def __init__(self, url, schema):
        self.connection = pymysql.connect(
            host=url.hostname,
            port=url.port or 3306,
            user=urllib.parse.unquote(url.username or ""),
            password=urllib.parse.unquote(url.password or ""),
            database=schema,
            charset="utf8mb4",
            init_command="SET time_zone = '+00:00'",
        )
        self.cursor = self.connection.cursor()
        self.changes = collections.Counter()
        self.committed = Committed()

    def rows(self, sql, *values):
        self.cursor.execute(sql, values)
        return self.cursor.fetchall()

    def value(self, sql, *values):
        return self.rows(sql, *values)[0][0]

    def insert(self, table, **row):
        names = ", ".join(f"`{name}`" for name in row)
        places = ", ".join(["%s"] * len(row))
        self.insert_by(table, f"({names}) VALUES ({places})", *row.values())

    def insert_by(self, table, rest, *values):
        self._change(table, "Inserts", f"INSERT INTO `{table}` {rest}", values)

    def update(self, table, rest, *values):
        self._change(table, "Updates", f"UPDATE `{table}` {rest}", values)

    def delete(self, table, rest, *values):
        self._change(table, "Deletes", f"DELETE FROM `{table}` {rest}", values)

    def _change(self, table, kind, sql, values):
        # Rows that an UPDATE leaves as they are do not count, here as in the log.
        self.changes[table, kind] += self.cursor.execute(sql, values)

    def define(self, table, sql):
        """Runs a statement that defines a table, which is a transaction of its own."""
        self.cursor.execute(sql)
        self.changes[table, "Ddls"] += 1
        self.commit()

    def commit(self):
        self.connection.commit()
        self.committed.transactions += 1
        self.committed.changes += self.changes
        self.changes.clear()

    def roll_back(self):
        self.connection.rollback()
        self.committed.rolled_back += 1
        self.changes.clear()

    @contextlib.contextmanager
    def undone(self):
        """Takes back what is done in this context, and nothing else of the transaction."""
        before = self.changes.copy()
        self.cursor.execute("SAVEPOINT here")
        yield
        self.cursor.execute("ROLLBACK TO SAVEPOINT here")
        self.changes = before


class Shop:
    """What all customers share: which keys there are, and the numbers of new rows."""

    def __init__(self, session):
        def range_of(table):
            return session.rows(f"SELECT MIN(id), MAX(id) FROM `{table}`")[0]

        self.customers = range_of("customers")
        self.products = range_of("products")
        self.types = [1, 2, *(number for (number,) in session.rows("SELECT id FROM all_types LIMIT 100"))]
        self.types_columns = [
            column
            for (column,) in session.rows(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE()"
                " AND table_name = 'all_types' AND column_name <> 'id' ORDER BY ordinal_position"
            )
        ]
        self.documents = range_of("documents")
        self.orders = [order for (order,) in session.rows("SELECT id FROM orders ORDER BY id LIMIT 2000")]
        self.warehouses = [code for (code,) in session.rows("SELECT code FROM warehouses")]
        # Shipments are numbered from the highest number down, all else upwards.
        self.shipment_ids = itertools.count(range_of("shipments")[0] - 1, -1)
        self.order_ids, self.address_ids, self.review_ids, self.type_ids = (
            itertools.count(range_of(table)[1] + 1) for table in ("orders", "addresses", "reviews", "all_types")
        )
        # The administrator has altered the table of reviews.
        self.reviews_have_answers = threading.Event()
        if session.rows("SHOW COLUMNS FROM reviews LIKE 'answer'"):
            self.reviews_have_answers.set()
        # A transaction that only reads, too, keeps tables from being altered.
        session.connection.commit()


class Customer:
    """One of several who use the shop at the same time. Each method is a transaction."""

    def __init__(self, shop, session, seed):
        self.shop = shop
        self.session = session
        self.random = random.Random(seed)
        # Orders of this customer, newest last.
        self.orders = []

    def act(self):
        """Does something, in one transaction."""
        kinds, weights = zip(*KINDS_OF_TRANSACTIONS, strict=True)
        try:
            self.random.choices(kinds, weights)[0](self)
            if self.random.randrange(ROLLED_BACK_ONE_OF) == 0:
                self.session.roll_back()
            else:
                self.session.commit()
        except pymysql.err.MySQLError as error:
            if error.args[0] not in EXPECTED_ERRORS:
                raise
            self.session.roll_back()

    # --- ordering ---

    def place_order(self):
        order = next(self.shop.order_ids)
        row = {"customer": self.some(self.shop.customers), "placed": now(), "status": "new", "note": self.note()}
        self.session.insert("orders", id=order, total=self.money(), **row)
        for line in range(1, self.random.randint(2, 5)):
            self.add_line(order, line)
        with self.session.undone():
            # The customer looks at his account and pays by invoice.
            self.session.insert("payments", **self.payment(order, "card"))
            self.session.delete("order_lines", "WHERE `order` = %s AND line = 1", order)
        self.session.insert("payments", **self.payment(order, "invoice"))
        self.orders.append(order)

    def add_line(self, order, line):
        product = self.some(self.shop.products)
        discount = self.random.choice([None, "0.125", "0.999"])
        quantity = self.random.randint(1, 9)
        self.session.insert(
            "order_lines", order=order, line=line, product=product, quantity=quantity, price=self.money(),
            discount=discount,
        )  # fmt: skip
        change = "SET quantity = quantity - %s, counted = %s WHERE product = %s LIMIT 1"
        self.session.update("stock", change, quantity, now(), product)

    def payment(self, order, method):
        signature = self.random.choice([None, b"", self.random.randbytes(64)])
        key = str(uuid.UUID(int=self.random.getrandbits(128)))
        return {"id": key, "order": order, "method": method, "amount": self.money(), "signature": signature}

    def ship_order(self):
        order = self.some_order()
        self.session.update("orders", "SET status = 'shipped', total = total + 1 WHERE id = %s", order)
        self.session.update("payments", "SET paid = %s WHERE `order` = %s", now(), order)
        number = next(self.shop.shipment_ids)
        warehouse = self.random.choice(self.shop.warehouses)
        self.session.insert(
            "shipments", id=number, order=order, warehouse=warehouse, picked="23:59:59", packing="00:00:00.001",
            weight_kg=self.random.random() * 1e3, delivered=self.random.choice([None, 0, 1]),
        )  # fmt: skip
        self.session.update("shipments", "SET delivered = 1, weight_kg = weight_kg * 1.1 WHERE id = %s", number)

    def cancel_order(self):
        order = self.some_order()
        for table in ("order_lines", "payments", "shipments"):
            self.session.delete(table, "WHERE `order` = %s", order)
        self.session.delete("orders", "WHERE id = %s", order)

    # --- keys that change ---

    def swap_lines(self):
        order = self.some_order()
        for before, after in [(1, -1), (2, 1), (-1, 2)]:
            self.session.update("order_lines", "SET line = %s WHERE `order` = %s AND line = %s", after, order, before)

    def make_room_for_a_line(self):
        """Every row takes the key that the row before it has just left."""
        order = self.some_order()
        self.session.update("order_lines", "SET line = line + 1 WHERE `order` = %s ORDER BY line DESC", order)
        self.add_line(order, 1)

    def move_stock(self):
        product, warehouse = self.some(self.shop.products), self.random.choice(self.shop.warehouses)
        self.session.update("stock", "SET warehouse = %s WHERE product = %s LIMIT 1", warehouse, product)

    def pay_otherwise(self):
        """The row gets another key and other values."""
        payment = self.payment(self.some_order(), "cash")
        self.session.update(
            "payments",
            "SET id = %s, method = 'cash', amount = -amount, signature = %s WHERE `order` = %s LIMIT 1",
            payment["id"],
            payment["signature"],
            payment["order"],
        )

    # --- people and what they write ---

    def register(self):
        name = self.random.choice(["Zoë", "Łukasz", "小明", "O'Brien 🙂"])
        settings = self.random.choice([None, '{"theme": "dark", "tags": [1, null, "é"]}'])
        self.session.insert(
            "customers", email=f"{uuid.UUID(int=self.random.getrandbits(128))}@example.com", full_name=name,
            birthday=self.random.choice([None, "1999-12-31"]), joined=now(), credit=self.money(),
            vip=self.random.randrange(2), sex=self.random.choice([None, "other"]), interests="books,travel",
            settings=settings,
        )  # fmt: skip
        number = self.session.cursor.lastrowid
        self.session.insert(
            "addresses", id=next(self.shop.address_ids), customer=number, city=self.random.randint(1, 5000),
            kind=self.random.randrange(256), street='Rue de l\'Été 7\n"Bât. C\\D"', postcode=None,
        )  # fmt: skip

    def edit_account(self):
        customer = self.some(self.shop.customers)
        change = self.random.choice(
            [
                "SET credit = credit - 0.01, vip = 1 - vip",
                "SET interests = 'music,films', phone = ''",
                "SET settings = NULL, sex = 'female', birthday = '1930-01-01'",
                "SET settings = JSON_SET(COALESCE(settings, '{}'), '$.visits', 7)",
            ]
        )
        self.session.update("customers", f"{change} WHERE id = %s", customer)

    def review(self):
        number = next(self.shop.review_ids)
        body = "Dos mil años después 📚\t\\N " * self.random.randint(1, 400)
        row = {"product": self.some(self.shop.products), "customer": self.some(self.shop.customers), "written": now()}
        if self.shop.reviews_have_answers.is_set() and self.random.random() < 0.5:
            row["answer"] = "Gracias 🙏"
        self.session.insert("reviews", id=number, stars=self.random.randint(1, 5), body=body, **row)
        self.session.update("reviews", "SET stars = 6 - stars, body = CONCAT(body, '!') WHERE id = %s", number)
        if self.random.random() < 0.3:
            # Gone, and another under the same number.
            self.session.delete("reviews", "WHERE id = %s", number)
            self.session.insert("reviews", id=number, stars=0, body="", **row)

    def think_better_of_it(self):
        """Nothing of it is there in the end."""
        number = next(self.shop.review_ids)
        row = {"product": self.some(self.shop.products), "customer": self.some(self.shop.customers), "written": now()}
        self.session.insert("reviews", id=number, stars=1, body="Never again", **row)
        self.session.update("reviews", "SET body = 'Never' WHERE id = %s", number)
        self.session.delete("reviews", "WHERE id = %s", number)

    # --- tables of another kind ---

    def log(self):
        """A table without a key: of rows that are equal, one changes."""
        row = {"at": now(), "actor": self.random.choice([None, "workload"]), "action": "buy", "detail": "twice"}
        self.session.insert("audit_log", **row)
        self.session.insert("audit_log", **row)
        where = "WHERE at = %s AND actor <=> %s AND action = 'buy' LIMIT 1"
        match self.random.randrange(6):
            case 0:
                change = "SET action = 'complain', detail = NULL"
                self.session.update("audit_log", f"{change} {where}", row["at"], row["actor"])
            case 1:
                self.session.delete("audit_log", where, row["at"], row["actor"])

    def all_types(self):
        """Values of every type, also the least and the greatest, in rows that come, change and go."""
        columns = self.shop.types_columns
        number, (model, other) = next(self.shop.type_ids), self.random.choices(self.shop.types, k=2)
        names = ", ".join(columns)
        copy = f"(id, {names}) SELECT %s, {names} FROM all_types WHERE id = %s"
        self.session.insert_by("all_types", copy, number, model)
        assignments = ", ".join(f"all_types.{column} = other.{column}" for column in columns)
        change = f"JOIN all_types AS other ON other.id = %s SET {assignments} WHERE all_types.id = %s"
        self.session.update("all_types", change, other, number)
        if self.random.random() < 0.3:
            self.session.delete("all_types", "WHERE id = %s", number)

    def scan_document(self):
        document = self.some(self.shop.documents)
        scan = self.random.choice([None, b"", self.random.randbytes(self.random.randrange(60_000))])
        body = "Pagina – ページ 📄\n" * self.random.randrange(4000)
        self.session.update("documents", "SET scan = %s, body = %s WHERE id = %s", scan, body, document)

    def raise_prices(self):
        first = self.some(self.shop.products)
        self.session.update("products", "SET price = price + 0.01 WHERE id BETWEEN %s AND %s", first, first + 300)

    # --- choosing ---

    def some(self, bounds):
        return self.random.randint(*bounds)

    def some_order(self):
        """One of this customer's own, or of those that were loaded."""
        if self.orders and self.random.random() < 0.7:
            return self.random.choice(self.orders[-20:])
        return self.random.choice(self.shop.orders)

    def money(self):
        return f"{self.random.randrange(10_000_000) / 100:.2f}"

    def note(self):
        return self.random.choice([None, "", "\\N", "NULL", "ring twice\r\n🚪"])


# How often of a hundred times.
KINDS_OF_TRANSACTIONS = [
    (Customer.place_order, 24),
    (Customer.ship_order, 14),
    (Customer.cancel_order, 6),
    (Customer.swap_lines, 6),
    (Customer.make_room_for_a_line, 5),
    (Customer.move_stock, 5),
    (Customer.pay_otherwise, 5),
    (Customer.register, 6),
    (Customer.edit_account, 10),
    (Customer.review, 8),
    (Customer.think_better_of_it, 2),
    (Customer.log, 3),
    (Customer.all_types, 3),
    (Customer.scan_document, 2),
    (Customer.raise_prices, 1),
]


def administer(shop, session, seconds):
    """Defines tables while customers order, at times spread over these seconds."""
    pause = Pace(6 / seconds).wait
    pause()
    # An earlier workload may have left what this one would make, or, ended in the middle, what it would have dropped.
    if session.rows("SHOW TABLES LIKE 'carts'"):
        session.define("carts", "DROP TABLE carts")
    if not session.rows(f"SHOW TABLES LIKE '{LAST_TABLE}'"):
        columns = "code VARCHAR(50) PRIMARY KEY, percent DECIMAL(4, 1) NOT NULL, note TEXT"
        session.define(LAST_TABLE, f"CREATE TABLE {LAST_TABLE} ({columns})")
        for number in range(50):
            note = None if number % 3 else "Tschüß"
            session.insert(LAST_TABLE, code=f"COUPON-{number:02}", percent=number / 2, note=note)
    session.commit()
    pause()
    # Not a table that others refer to: of a transaction that has inserted into one of those and an ALTER, each can wait
    # for the other, and MariaDB does not notice.
    if not shop.reviews_have_answers.is_set():
        session.define("reviews", "ALTER TABLE reviews ADD COLUMN answer VARCHAR(200)")
        shop.reviews_have_answers.set()
    session.update("reviews", "SET answer = 'Thank you!' WHERE stars = 5 LIMIT 200")
    session.commit()
    pause()
    session.define("carts", "CREATE TABLE carts (id INT PRIMARY KEY AUTO_INCREMENT, content JSON)")
    session.insert_by("carts", "(content) SELECT CONCAT('[', seq, ']') FROM seq_1_to_500")
    session.commit()
    pause()
    session.define("carts", "TRUNCATE TABLE carts")
    session.insert("carts", content="{}")
    session.commit()
    pause()
    session.define("carts", "DROP TABLE carts")
    session.update(LAST_TABLE, "SET code = CONCAT(code, '-X') WHERE percent > 20")
    session.commit()


class Pace:
    """Keeps to so many steps a second."""

    def __init__(self, rate):
        self.step_s = 1 / rate
        self.next = time.monotonic()

    def wait(self):
        # Who is late does not hurry.
        self.next = max(self.next + self.step_s, time.monotonic())
        time.sleep(max(0, self.next - time.monotonic()))


class Workload:
    """Customers and an administrator at work, in threads."""

    def __init__(self, url, schema, seconds, rate, seed):
        self.url, self.schema, self.seconds = url, schema, seconds
        self.sessions = []
        self.errors = []
        shop = Shop(self.session())
        customers = [Customer(shop, self.session(), f"{seed} {number}") for number in range(CUSTOMERS)]
        works = [(self.buy, customer, rate / CUSTOMERS) for customer in customers]
        works.append((administer, shop, self.session(), seconds))
        # Threads of a program that is ended do not keep it up.
        self.threads = [threading.Thread(target=self.work, args=work, daemon=True) for work in works]

    def session(self):
        session = Session(self.url, self.schema)
        self.sessions.append(session)
        return session

    def start(self):
        for thread in self.threads:
            thread.start()

    def is_running(self):
        return any(thread.is_alive() for thread in self.threads)

    def work(self, function, *arguments):
        try:
            function(*arguments)
        except Exception as error:
            self.errors.append(error)

    def buy(self, customer, rate):
        pace, end = Pace(rate), time.monotonic() + self.seconds
        while time.monotonic() < end and not self.errors:
            customer.act()
            pace.wait()

    def finish(self):
        """Waits for the end; returns what was committed and the key of the row that was committed last."""
        for thread in self.threads:
            thread.join()
        if self.errors:
            raise self.errors[0]
        last = f"LAST-{uuid.uuid4()}"
        session = self.sessions[0]
        session.insert(LAST_TABLE, code=last, percent=0)
        session.commit()
        committed = Committed()
        for session in self.sessions:
            committed.add(session.committed)
            session.connection.close()
        return committed, last


def now():
    """In milliseconds, which the coarsest column that is looked for by a time can hold."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", help="mariadb://user:password@host:port")
    parser.add_argument("--schema", default="shop")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=150, help="transactions a second")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    url = urllib.parse.urlsplit(arguments.database)
    workload = Workload(url, arguments.schema, arguments.seconds, arguments.rate, arguments.seed)
    workload.start()
    committed, _ = workload.finish()
    for table in sorted({table for table, _ in committed.changes}):
        counts = "  ".join(f"{committed.changes[table, kind]:>7,} {kind}" for kind in KINDS)
        print(f"  {table:<16} {counts}")
    print(f"  {committed.transactions:,} transactions, {committed.rolled_back:,} rolled back")


if __name__ == "__main__":
    main()
