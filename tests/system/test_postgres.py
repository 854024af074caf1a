"""A PostgreSQL server: what it does to the store that a file does not, and what the store does on it."""

import contextlib
import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from config import Config
from database import Connection, Database, Layout
from errors import StoreError
from orders import WEBHOOK, Outcome
from store import Store, layout
from tests.support import ENOUGH, TASK_SECONDS, ago, look, lose, move_marks, new_database, new_store, page
from tests.system.test_processes import _stop_within_a_batch, process, receive
from times import DAY
from tools.harness import wait_until
from tools.postgresql import PASSWORD, Server, debians_programs

IN_TIME = 7  # seconds: waiting for 3, and 2 for a connection; the machine may be slow
MENDS = 3
THINGS = "CREATE TABLE things (name TEXT);"


@pytest.fixture
def place(own_server: Server) -> Iterator[str]:
    with own_server.new_database() as place:
        yield place


@pytest.fixture
def open_database(place: str) -> Iterator[Callable[..., Database]]:
    with contextlib.ExitStack() as stack:

        def start(address: str = place, version: int = 1, may_replace: bool = True, **origin: str) -> Database:
            database = new_database(address, Layout(version, THINGS, origin), may_replace=may_replace)
            stack.callback(database.close)
            return database

        yield start


def add(database: Database, name: str, **options: Any) -> None:
    database.write(lambda db: db.post("INSERT INTO things VALUES (?)", [(name,)]), **options)


def things(database: Database) -> list[str]:
    return [row["name"] for row in database.read(lambda db: db.rows("SELECT name FROM things"))]


def namespaces(server: Server, place: str) -> list[str]:
    sql = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'bridge%' ORDER BY 1"
    return [name for (name,) in server.run_sql(sql, place.rpartition("/")[2])]


def run_sql(server: Server, place: str, sql: str) -> None:
    """Run a statement with the namespace in the place of {}."""
    name = next(name for name in namespaces(server, place) if not name.endswith("set_aside"))
    server.run_sql(sql.format(name), place.rpartition("/")[2])


# --- a server that is away


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    server.stop()
    yield
    server.restart()


def assert_fails_in_time(call: Callable[[], object]) -> None:
    begun = time.monotonic()
    with pytest.raises(StoreError):
        call()
    assert time.monotonic() - begun < IN_TIME


@pytest.mark.parametrize("away", [stopped, Server.frozen], ids=["stopped", "frozen"])
def test_while_the_server_is_away_all_fails_in_time_and_then_all_is_well_again(own_server, open_store, away):
    store = open_store()
    store.put_orders([look("before", source=WEBHOOK)])
    with away(own_server):
        for call in (
            store.marks,
            lambda: store.put_orders([look("during")]),
            lambda: store.take_request_slot(0.5),
            lambda: store.lock("refresh").__enter__(),
            open_store().marks,
        ):
            assert_fails_in_time(call)
    wait_until(lambda: works(store), MENDS, "the store")
    assert store.get_order("before")


def test_an_address_has_no_say_in_how_long_is_waited(own_server, place):
    store = new_store(f"{place}?connect_timeout=30")
    with own_server.frozen():
        assert_fails_in_time(store.marks)


def test_a_connection_whose_other_machine_is_lost_ends_on_both_sides(open_database):
    for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout"):
        shown = open_database().read(lambda db, name=name: db.rows(f"SHOW {name}"))[0][name]
        assert shown not in ("0", ""), name


def works(store: Store) -> bool:
    try:
        return store.put_orders([look("after")]) != []
    except StoreError:
        return False


def test_a_server_that_starts_again_soon_is_not_even_noticed(own_server, store):
    own_server.stop()
    starting = threading.Timer(0.5, own_server.restart)
    starting.start()
    try:
        assert store.put_orders([look(source=WEBHOOK)]) == [Outcome.NEW]
    finally:
        starting.join()


def test_what_was_acknowledged_survives_the_servers_crash(own_server, store):
    for number in range(50):
        store.put_orders([look(str(number), source=WEBHOOK)])
    own_server.kill()
    own_server.restart()
    assert all(store.get_order(str(number)) for number in range(50))


def test_connections_that_are_cut_again_and_again_are_not_even_noticed(own_server, open_store):
    assert_cuts_are_not_noticed(own_server, [open_store() for _ in range(2)])


def assert_cuts_are_not_noticed(server: Server, stores: list[Store]) -> None:
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.05):
            server.cut()

    def put(number: int) -> None:
        store = stores[number % len(stores)]
        assert store.put_orders([look(str(number), source=WEBHOOK)])
        assert store.get_order(str(number))

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(put, range(200)))
    finally:
        over.set()
        cutting.join()
    assert all(stores[0].get_order(str(number)) for number in range(200))


def test_a_lock_ends_with_its_connection(own_server, open_store):
    store, other = open_store(), open_store()
    with store.lock("refresh") as is_free:
        assert is_free
        own_server.cut()
        with other.lock("refresh") as is_free:
            assert is_free
    assert store.marks()


def test_a_writer_that_is_frozen_holds_the_others_up_for_moments_only(open_store, place):
    store = open_store()
    store.put_orders([look("first"), look("last")])
    with process(_stop_within_a_batch, place) as (_, pipe):
        assert receive(pipe) == "in the middle"
        assert store.put_orders([look("after")]) == [Outcome.NEW]
    assert store.get_order("new") is None


def test_a_writer_that_is_frozen_while_it_sends_holds_the_others_up_for_moments_only(own_server, open_store, place):
    line = Line(own_server.port)
    frozen, store = new_store(place.replace(str(own_server.port), str(line.port))), open_store()
    assert works(frozen)
    line.keeps_the_last_word = True
    with pytest.raises(StoreError):
        frozen.put_orders([look("frozen")])
    wait_until(lambda: works(store), 15, "the store")
    line.close()


def test_a_process_needs_four_connections_at_most(own_server, open_store, place):
    store, seen = open_store(), []

    def work(number: int) -> None:
        store.put_orders([look(str(number))])
        page(store, 5)
        sql = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{place.rpartition('/')[2]}'"
        seen.append(own_server.run_sql(sql)[0][0])

    move_marks(store, horizon=ago(DAY), complete=1)
    with store.lock("refresh"), store.lock("upkeep"), ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(100)))
    assert 3 <= max(seen) <= 4


# --- what it says


WRONG = {
    "another password": (lambda server: server.url(password="another-secret"), "refuses the user or the password"),
    "no such user": (lambda server: server.url(user="somebody"), "refuses the user or the password"),
    "no such database": (lambda server: server.url("nowhere"), "no such database"),
    "no such host": (lambda server: server.url().replace("127.0.0.1", "db.invalid"), "host is unknown"),
    "nobody listens": (lambda server: server.url().replace(str(server.port), "1"), "cannot be reached"),
    "no TLS": (lambda server: f"{server.url()}?sslmode=require", "TLS"),
    "words in names": (lambda server: server.url("alert_of_a_certificate"), "no such database"),
}


@pytest.mark.parametrize(("address", "words"), WRONG.values(), ids=WRONG)
def test_an_address_that_will_not_do_is_told_in_words_without_its_secrets(own_server, caplog, address, words):
    caplog.set_level(logging.DEBUG)
    store = new_store(address(own_server))
    with pytest.raises(StoreError, match=words) as failure:
        store.marks()
    told = str(failure.value) + store.name + caplog.text
    assert not [word for word in (PASSWORD, "another-secret", "somebody", "127.0.0.1", "db.invalid") if word in told]


@pytest.mark.parametrize("password", ["se/cret", "se@cret", "se:@cret", "s@e/cret", "/secret", "s/e@c?ret"])
def test_a_password_that_is_not_escaped_is_refused_at_once_and_not_told(password):
    address = f"postgresql://bridge:{password}@db.test:5432/orders"
    with pytest.raises(StoreError, match="cannot be read") as failure:
        new_store(address)
    assert "cret" not in str(failure.value)


def test_a_pooler_that_drops_the_settings_is_refused_in_words(own_server, place):
    line = Line(own_server.port)
    line.replaced = (b"search_path=bridge_v", b"search_path=others_v")
    with pytest.raises(StoreError, match="pooler"):
        new_store(place.replace(str(own_server.port), str(line.port))).marks()
    line.close()


def test_a_database_of_another_encoding_is_refused_in_words(own_server):
    own_server.run_sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(StoreError, match="UTF8"):
        new_store(own_server.url("latin")).marks()


def test_of_several_hosts_the_one_that_answers_is_used(own_server):
    address = own_server.url().replace("127.0.0.1", "127.0.0.1:1,127.0.0.1").replace("postgresql:", "postgres:")
    config = Config.from_environment({**ENOUGH, "DATABASE_URL": address})
    database = new_database(config.database_url.replace("postgres:", "postgresql:"), Layout(1, THINGS, {"host": "b"}))
    add(database, "tea")
    assert things(database) == ["tea"]
    database.close()


def test_hosts_that_are_silent_do_not_keep_from_the_one_that_answers(own_server, place):
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(2)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in (*silent, own_server.port))
        store = new_store(place.replace(f"127.0.0.1:{own_server.port}", hosts))
        assert store.put_orders([look()]) == [Outcome.NEW]
        store.close()


@pytest.fixture(scope="module")
def secure_server(tmp_path_factory) -> Iterator[Server]:
    """Run a server that knows TLS, where there is one: that of the package does not."""
    if not (shutil.which("openssl") and debians_programs()):
        pytest.skip("there is no server with TLS here: it takes Debian's postgresql, and openssl")
    key, certificate = (tmp_path_factory.mktemp("tls") / name for name in ("key", "certificate"))
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    with Server(debians_programs()[0], tls=(key, certificate)) as secure_server:
        yield secure_server


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_a_server_is_reached_by_tls(secure_server, mode):
    address = secure_server.url(host="localhost") + f"?sslmode={mode}&sslrootcert={secure_server.certificate}"
    store = new_store(address)
    assert store.put_orders([look(mode)]) == [Outcome.NEW]
    store.close()


def test_connections_by_tls_that_are_cut_are_not_even_noticed(secure_server):
    store = new_store(secure_server.url(host="localhost") + "?sslmode=require")
    assert_cuts_are_not_noticed(secure_server, [store])
    store.close()


def test_a_server_with_another_certificate_is_refused_in_words(secure_server):
    address = secure_server.url(host="127.0.0.1") + f"?sslmode=verify-full&sslrootcert={secure_server.certificate}"
    with pytest.raises(StoreError, match="certificate"):
        new_store(address).marks()


# --- namespaces


def test_versions_and_origins_do_not_disturb_each_other(open_database):
    first, second, third = open_database(), open_database(version=2), open_database(account="another")
    for database, name in ((first, "tea"), (second, "milk"), (third, "salt")):
        add(database, name)
    assert [things(database) for database in (first, second, third)] == [["tea"], ["milk"], ["salt"]]


def test_instances_that_begin_at_once_agree(open_database):
    databases, gate = [open_database() for _ in range(8)], threading.Barrier(8)

    def begin(database: Database) -> None:
        gate.wait(10)
        add(database, "tea")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, databases))
    assert things(databases[0]) == ["tea"] * 8


def test_tables_that_are_dropped_while_in_use_are_begun_anew_by_all(open_database, place):
    first, second = open_database(), open_database()
    add(first, "tea")
    assert things(second) == ["tea"]
    lose(place)
    add(first, "milk")
    assert things(second) == ["milk"]


DAMAGE = {
    "a table is gone": "DROP TABLE {}.orders",
    "another column": "ALTER TABLE {}.orders RENAME COLUMN watch TO watched",
    "no marks": "DELETE FROM {}.marks",
    "what is no JSON": "UPDATE {}.orders SET detail = 'garbage'",
    "a column of another type": "ALTER TABLE {}.orders ALTER confirmed TYPE boolean USING false",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_tables_of_no_use_are_set_aside_once_for_all(own_server, open_store, place, damage):
    store, other = open_store(), open_store()
    for _ in range(2):
        store.put_orders([look("1")])
        assert other.get_order("1")
        run_sql(own_server, place, damage)
        assert store.put_orders([look("1"), look("2")]) == [Outcome.NEW] * 2
        assert other.get_order("2")
        assert store.get_order("2")
    name, aside = namespaces(own_server, place)
    assert aside == f"{name}_set_aside"


def test_damage_to_tables_that_another_instance_began_anew_is_mended_at_once(own_server, open_store, place):
    store, other = open_store(), open_store()
    assert works(store)
    lose(place)
    assert works(other)
    run_sql(own_server, place, DAMAGE["no marks"])
    assert works(store)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_command_leaves_tables_of_no_use_to_the_service(own_server, open_store, place, damage):
    open_store().put_orders([look("1")])
    run_sql(own_server, place, damage)
    with pytest.raises(StoreError):
        open_store(may_replace=False).put_orders([look("1")])
    assert len(namespaces(own_server, place)) == 1


@pytest.mark.parametrize(
    ("version", "origin", "named"),
    [(1, {"AIFI_STORE_ID": "4"}, "another AIFI_STORE_ID"), (2, {"AIFI_STORE_ID": "3"}, "another version")],
)
def test_a_command_begins_no_mirror_beside_the_services(own_server, open_database, place, version, origin, named):
    add(open_database(AIFI_STORE_ID="3"), "tea")
    with pytest.raises(StoreError, match=named):
        things(open_database(version=version, may_replace=False, **origin))
    assert len(namespaces(own_server, place)) == 1
    assert things(open_database(AIFI_STORE_ID="3", may_replace=False)) == ["tea"]


def test_a_mirror_that_nobody_used_for_a_week_is_dropped(own_server, open_database, place):
    add(open_database(account="old"), "tea")
    [old] = namespaces(own_server, place)
    add(open_database(account="recent"), "milk")
    [recent] = set(namespaces(own_server, place)) - {old}
    for name, days in ((old, 7.1), (recent, 6.9)):
        about = f'{{"settings": {{}}, "used_at": {time.time() - days * DAY}}}'
        own_server.run_sql(f"COMMENT ON SCHEMA {name} IS '{about}'", place.rpartition("/")[2])
    own_server.run_sql("CREATE SCHEMA bridge_view_of_another_program", place.rpartition("/")[2])
    add(open_database(account="new"), "salt")
    left = set(namespaces(own_server, place))
    assert old not in left
    assert {recent, "bridge_view_of_another_program"} < left
    assert len(left) == 3


def test_an_unused_mirror_that_cannot_be_dropped_does_not_keep_ours_from_being_signed(own_server, open_database, place):
    name, about = place.rpartition("/")[2], '{"settings": {}, "used_at": 1}'
    own_server.run_sql(f"CREATE SCHEMA bridge_v1_0; COMMENT ON SCHEMA bridge_v1_0 IS '{about}'", name)
    own_server.run_sql("CREATE TABLE bridge_v1_0.things ()", name)
    with psycopg.connect(place) as holder:
        holder.execute("LOCK TABLE bridge_v1_0.things")
        database = open_database()
        add(database, "tea")
        [ours] = set(namespaces(own_server, place)) - {"bridge_v1_0"}
        own_server.run_sql(f"COMMENT ON SCHEMA {ours} IS '{about}'", name)
        assert things(open_database()) == ["tea"]
    signed = f"SELECT obj_description('{ours}'::regnamespace, 'pg_namespace')"
    assert own_server.run_sql(signed, name) != [(about,)]


def test_anothers_mirror_does_not_keep_ours_from_being_signed(own_server, open_database, place, caplog):
    name = place.rpartition("/")[2]
    about = '{"settings": {}, "used_at": 1}'
    own_server.run_sql("CREATE ROLE tenant LOGIN PASSWORD 'tenants'; GRANT CREATE ON DATABASE " + name + " TO tenant")
    own_server.run_sql(f"CREATE SCHEMA bridge_v1_0; COMMENT ON SCHEMA bridge_v1_0 IS '{about}'", name)
    address = own_server.url(name, "tenant", "tenants")
    add(open_database(address), "tea")
    [ours] = set(namespaces(own_server, place)) - {"bridge_v1_0"}
    own_server.run_sql(f"COMMENT ON SCHEMA {ours} IS '{about}'", name)
    assert things(open_database(address)) == ["tea"]
    assert not caplog.messages
    signed = f"SELECT obj_description('{ours}'::regnamespace, 'pg_namespace')"
    assert own_server.run_sql(signed, name) != [(about,)]


# --- promises


@pytest.mark.parametrize(("durable", "expected"), [(True, "on"), (False, "off")])
def test_a_commit_waits_for_the_disk_where_it_must(open_database, durable, expected):
    show = "SHOW synchronous_commit"
    work = lambda db: db.rows(show)[0]["synchronous_commit"]  # noqa: E731
    assert open_database().write(work, durable) == expected


def test_a_writing_waits_for_another_instances_as_long_as_it_is_told(open_database):
    database, other = open_database(), open_database()
    add(other, "tea")

    def while_it_writes(_: Connection) -> None:
        db_begun = time.monotonic()
        with pytest.raises(StoreError, match="busy"):
            add(other, "milk", patience=0.2)
        assert time.monotonic() - db_begun < 2

    database.write(lambda db: (db.rows("SELECT 1 AS one"), while_it_writes(db)))
    add(other, "salt")
    assert things(database) == ["tea", "salt"]


def test_a_slot_for_a_request_and_a_note_do_not_wait_for_a_writer(place):
    database, other = new_database(place, layout({"origin": ""})), new_store(place)
    assert database.read(lambda db: db.rows("SELECT file FROM marks"))[0]["file"] == other.marks().file

    def while_it_writes(db: Connection) -> float:
        db.rows("UPDATE marks SET failures = 1 RETURNING failures")
        other.put_note("aide", "polled")
        return other.take_request_slot(0.5)

    assert database.write(while_it_writes) <= 0
    assert other.notes()["aide"].text == "polled"
    database.close()
    other.close()


def test_the_clock_is_the_servers_whatever_the_machines_own_says(own_server, open_database, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 45.0)
    seconds = open_database().clock()
    assert abs(seconds - float(own_server.run_sql("SELECT extract(epoch FROM clock_timestamp())")[0][0])) < 1


def test_all_text_is_compared_byte_by_byte_whatever_the_databases_locale(own_server, store, place):
    columns = """SELECT count(*), count(*) FILTER (WHERE collation_name = 'C') FROM information_schema.columns
                 WHERE table_schema LIKE 'bridge%' AND data_type = 'text'"""
    [(count, byte_by_byte)] = own_server.run_sql(columns, place.rpartition("/")[2])
    assert count == byte_by_byte > 30


def test_text_with_nul_is_kept_as_far_as_the_server_can(open_database):
    database = open_database()
    add(database, "tea\0milk")
    assert things(database) == ["tea\ufffdmilk"]


# --- round trips


SYNC = b"S\0\0\0\4"


class Line:
    """The line to a server; counts how often it turns from the server's answer to the next question."""

    def __init__(self, port: int):
        self.trips, self._asking = 0, False
        self.keeps_the_last_word = False  # what a batch ends with
        self.replaced = (b"", b"")  # of what is asked, and by what
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, target, source is client), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                self.trips += asks and not self._asking
                self._asking = asks
                if asks:
                    data = data.replace(*self.replaced) if self.replaced[0] else data
                    if self.keeps_the_last_word and data.endswith(SYNC):
                        target.sendall(data[: -len(SYNC)])
                        threading.Event().wait(TASK_SECONDS)
                target.sendall(data)
        for end in (source, target):
            end.close()

    def count(self, call: Callable[[], object]) -> int:
        before = self.trips
        call()
        return self.trips - before


@pytest.fixture
def line(own_server: Server) -> Iterator[Line]:
    line = Line(own_server.port)
    yield line
    line.close()


def test_a_page_and_an_order_take_one_trip_a_webhook_two_and_a_list_of_200_three(own_server, place, line):
    store = new_store(place.replace(str(own_server.port), str(line.port)))
    move_marks(store, horizon=ago(DAY), complete=1)
    store.put_orders([look("1")])
    page(store)
    assert line.count(lambda: page(store)) == 1
    assert line.count(lambda: store.show_order("1")) == 1
    assert line.count(lambda: store.put_orders([look("2", source=WEBHOOK)])) == 2
    assert line.count(lambda: store.put_orders([look(str(number)) for number in range(200)])) <= 3
    assert line.count(lambda: store.take_request_slot(0.5)) == 1
    store.close()
