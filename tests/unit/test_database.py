"""The file: threads that share it, damage, loss, another schema or origin, and folders that cannot be used."""

import contextlib
import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sqlite
import store as store_module
from database import Connection, Database, Layout
from errors import StoreError
from orders import Outcome
from sqlite import SqliteDatabase
from tests.support import ago, ids, look, move_marks, new_database, new_store
from times import DAY

PATIENCE_SECONDS = 30  # the disk may be slow
ORIGIN = {"AIFI_BASE_URL": "https://api.aifi.test", "AIFI_STORE_ID": "3", "account": "a1b2"}


def layout(version: int = 1, **origin: str) -> Layout:
    """Return a file with one table, filled from the usual origin but for these settings."""
    return Layout(version, "CREATE TABLE things (name TEXT);", {**ORIGIN, **origin})


@pytest.fixture
def open_database(place: str) -> Iterator[Callable[..., Database]]:
    """Open the database as often as is asked for."""
    with contextlib.ExitStack() as stack:

        def start(wanted: Layout | None = None, may_replace: bool = True) -> Database:
            database = new_database(place, wanted or layout(), may_replace=may_replace)
            stack.callback(database.close)
            return database

        yield start


@pytest.fixture
def database(open_database: Callable[..., Database]) -> Database:
    return open_database()


def add(database: Database, *names: str, **options: Any) -> None:
    rows = [(name,) for name in names]
    database.write(lambda db: db.post("INSERT INTO things VALUES (?)", rows), **options)


def things(database: Database) -> list[str]:
    return [row["name"] for row in database.read(lambda db: db.rows("SELECT name FROM things"))]


# --- transactions


def test_what_was_written_is_read(database, open_database):
    add(database, "tea", "milk")
    assert things(open_database()) == ["tea", "milk"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_writing_that_breaks_off_leaves_nothing_behind(database, error):
    add(database, "tea")

    def work(db: Connection) -> None:
        db.post("DELETE FROM things")
        raise error

    with pytest.raises(error):
        database.write(work)
    assert things(database) == ["tea"]
    add(database, "milk")
    assert things(database) == ["tea", "milk"]


def test_a_reading_of_several_statements_sees_one_state(database, open_database):
    add(database, "tea")

    def work(db: Connection) -> list[int]:
        counts = []
        for _ in range(2):
            counts.append(db.rows("SELECT count(*) AS count FROM things")[0]["count"])
            add(open_database(), "milk")
        return counts

    assert database.read(work, statements=2) == [1, 1]
    assert database.read(work) == [3, 4]


@pytest.mark.parametrize(("durable", "expected"), [(True, 2), (False, 1)], ids=["full", "normal"])
def test_a_commit_waits_for_the_disk_where_it_must_whatever_was_before(database, path, durable, expected):
    for before in (True, False, durable):
        add(database, "tea", durable=before)
        assert database.write(lambda db: db.rows("PRAGMA synchronous")[0]["synchronous"], durable) == expected


def test_a_writing_has_its_own_patience_for_another_writer(database):
    def while_it_writes(_: Connection) -> str:
        with pytest.raises(StoreError, match="busy"), ThreadPoolExecutor(1) as pool:
            pool.submit(add, database, "milk", patience=0.01).result()
        return "written"

    assert database.write(while_it_writes) == "written"


# --- many at once


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", PATIENCE_SECONDS)


@pytest.mark.usefixtures("patient")
def test_threads_share_one_store(store):
    def write(writer: int) -> None:
        for n in range(20):
            store.put_orders([look(f"{writer}-{n}")])
            assert store.get_order(f"{writer}-{n}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(ids(store)) == 160


@pytest.mark.usefixtures("patient")
def test_stores_that_open_a_new_file_at_once_agree_on_it(place):
    stores = [new_store(place) for _ in range(8)]
    gate = threading.Barrier(8)

    def put(n: int) -> None:
        gate.wait(PATIENCE_SECONDS)
        stores[n].put_orders([look(str(n))])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(8)))
    move_marks(stores[0], horizon=ago(DAY), complete=1)
    assert sorted(ids(stores[0])) == [str(n) for n in range(8)]
    for store in stores:
        store.close()


# --- locks


def test_a_lock_has_one_holder(database, open_database):
    with database.lock("refresh") as is_free:
        assert is_free
        for other in (database, open_database()):
            with other.lock("refresh") as is_free:
                assert not is_free


def test_a_lock_that_was_asked_for_in_vain_stays_with_its_holder(database, open_database):
    with database.lock("refresh"):
        for _ in range(3):
            with open_database().lock("refresh") as is_free:
                assert not is_free


def test_a_lock_is_free_after_its_holder(database, open_database):
    for each in (database, open_database(), database):
        with each.lock("refresh") as is_free:
            assert is_free


def test_a_lock_is_free_after_a_holder_that_failed(database):
    with pytest.raises(ValueError, match="refresh failed"), database.lock("refresh"):
        raise ValueError("refresh failed")
    with database.lock("refresh") as is_free:
        assert is_free


def test_locks_of_other_names_and_other_databases_are_free(database, new_place):
    with new_place() as other_place:
        other = new_database(other_place, layout())
        with database.lock("refresh"), database.lock("upkeep") as first, other.lock("refresh") as second:
            assert (first, second) == (True, True)
        other.close()


def test_of_threads_that_ask_for_a_lock_at_once_one_gets_it(database, open_database):
    gate, tried = threading.Barrier(8), threading.Barrier(8)

    def take(n: int) -> bool:
        gate.wait(PATIENCE_SECONDS)
        with (database if n % 2 else open_database()).lock("refresh") as is_free:
            tried.wait(PATIENCE_SECONDS)
            return is_free

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 1


def test_threads_that_wait_for_a_lock_all_get_it_one_after_the_other(database):
    inside, most = 0, 0

    def work(_: int) -> None:
        nonlocal inside, most
        is_free = False
        while not is_free:
            with database.lock("refresh") as is_free:
                if is_free:
                    inside += 1
                    most = max(most, inside)
                    add(database, "turn")
                    inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(12)))
    assert (len(things(database)), most) == (12, 1)


def test_a_lock_outlives_the_loss_of_the_file(database, open_database, path):
    add(database, "tea")
    with database.lock("refresh"):
        os.remove(path)
        assert things(database) == []
        fill_with_garbage(path)
        assert things(open_database()) == []
        with open_database().lock("refresh") as is_free:
            assert not is_free


def test_a_lock_in_a_missing_folder_is_a_store_error(tmp_path):
    with (
        pytest.raises(StoreError, match="folder"),
        SqliteDatabase(str(tmp_path / "no" / "x.db"), layout()).lock("refresh"),
    ):
        pytest.fail("there is no such folder")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_disk_that_knows_no_locks_is_a_store_error(database, path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.raises(StoreError, match=f"folder cannot be used: {os.strerror(number)}"), database.lock("refresh"):
        pytest.fail("it cannot be locked")
    with pytest.raises(StoreError, match="folder"):
        things(database)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "of the holder"), StoreError("of the holder")], ids=repr)
def test_an_error_of_the_holder_stays_what_it_is(database, error):
    with pytest.raises(type(error), match="of the holder"), database.lock("refresh"):
        raise error


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


# --- a disk that fails

STAT = os.stat


@pytest.fixture
def failing_stat(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Let the disk fail to tell about a file beside the database."""

    def fail(suffix: str, number: int) -> None:
        def stat(name: Any, *arguments: Any, **options: Any) -> os.stat_result:
            if name == f"{path}{suffix}":
                raise OSError(number, os.strerror(number))
            return STAT(name, *arguments, **options)

        monkeypatch.setattr(os, "stat", stat)

    return fail


@pytest.mark.parametrize("suffix", ["", "-wal"], ids=["the file", "its journal"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE], ids=errno.errorcode.get)
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "not open"])
@pytest.mark.parametrize("work", [things, add], ids=["read", "write"])
def test_a_disk_that_does_not_tell_about_a_file_is_a_store_error_and_mends(
    database, open_database, path, monkeypatch, failing_stat, suffix, number, is_open, work
):
    add(database, "tea")
    failing_stat(suffix, number)
    for each in (database, database) if is_open else (open_database(),):
        with pytest.raises(StoreError):
            work(each)
    monkeypatch.setattr(os, "stat", STAT)
    assert things(database) == things(open_database()) == ["tea"]
    assert not Path(f"{path}{SET_ASIDE}").exists()


# --- a file that may not be replaced


def snapshot_of(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if entry.suffix != ".lock"}


@pytest.mark.parametrize(
    ("found", "wanted", "named"),
    [
        ({}, {"AIFI_STORE_ID": "4"}, "another AIFI_STORE_ID"),
        ({}, {"AIFI_STORE_ID": "4", "account": "c3d4"}, "another AIFI_STORE_ID, account"),
        ({}, {"AIFI_CUSTOMER_ROLE": "customer"}, "another AIFI_CUSTOMER_ROLE"),
        ({"AIFI_CUSTOMER_ROLE": "customer"}, {}, "another AIFI_CUSTOMER_ROLE"),
        ({"AIFI_CUSTOMER_ROLE": ""}, {"AIFI_CURRENCY": "", "AIFI_BASE_URL": "x"}, "AIFI_BASE_URL, AIFI_CURRENCY, AIFI"),
    ],
    ids=["another value", "two other values", "one more", "one less", "all of it"],
)
def test_a_file_of_another_origin_is_left_alone_and_what_differs_is_named(open_database, path, found, wanted, named):
    add(service := open_database(layout(**found)), "tea")
    service.close()
    before = snapshot_of(path)
    command = open_database(layout(**wanted), may_replace=False)
    for work in (things, add):
        with pytest.raises(StoreError, match=named) as error:
            work(command)
        assert not {*ORIGIN.values(), "4", "c3d4"} & set(str(error.value).split())
    assert snapshot_of(path) == before
    assert things(service) == ["tea"]


def test_a_running_service_does_not_notice_a_command_of_another_origin(open_database):
    add(service := open_database(), "tea")
    with pytest.raises(StoreError, match="AIFI_STORE_ID"):
        things(open_database(layout(AIFI_STORE_ID="4"), may_replace=False))
    add(service, "milk")
    assert things(service) == ["tea", "milk"]


def test_a_file_of_another_version_is_left_alone(open_database, path):
    add(service := open_database(), "tea")
    service.close()
    before = snapshot_of(path)
    with pytest.raises(StoreError, match="its schema has version 1"):
        things(open_database(layout(2), may_replace=False))
    assert snapshot_of(path) == before


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "not open"])
def test_a_damaged_file_is_left_alone(open_database, path, is_open):
    add(command := open_database(may_replace=False), "tea")
    if is_open:
        checkpoint(path)
    else:
        command.close()
    fill_with_garbage(path)
    garbage = path.read_bytes()
    with pytest.raises(StoreError):
        things(command)
    assert path.read_bytes() == garbage
    assert not Path(f"{path}{SET_ASIDE}").exists()


@pytest.mark.parametrize("may_replace", [True, False])
def test_a_file_of_the_same_origin_is_used_and_a_missing_one_begun(open_database, path, may_replace):
    add(open_database(may_replace=may_replace), "tea")
    assert things(open_database(may_replace=may_replace)) == ["tea"]
    assert not Path(f"{path}{SET_ASIDE}").exists()


def test_the_order_of_the_settings_is_no_difference(open_database, path):
    add(open_database(), "tea")
    backwards = Layout(1, "", dict(reversed(ORIGIN.items())))
    assert things(open_database(backwards, may_replace=False)) == ["tea"]


# --- what happens to files

SET_ASIDE = ".set-aside"


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(b"this is no database " * 1000)


def fill_the_middle_with_garbage(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * (size - 100))


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_to_a_hundred_bytes(path: Path) -> None:
    os.truncate(path, 100)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def drop_the_marks(path: Path) -> None:
    run_sql(path, "DELETE FROM marks")


def drop_a_table(path: Path) -> None:
    run_sql(path, "DROP TABLE orders")


def run_sql(path: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(sql)
        db.commit()


def checkpoint(path: Path) -> None:
    """Bring everything from the journal into the file."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


DAMAGE = [
    fill_with_garbage,
    fill_the_middle_with_garbage,
    cut_in_half,
    cut_to_a_hundred_bytes,
    empty,
    drop_the_marks,
    drop_a_table,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_replaced_at_the_start(store, open_store, path, damage):
    store.put_orders([look(str(n)) for n in range(200)])
    store.close()
    damage(path)
    again = open_store()
    assert again.put_orders([look("after")]) == [Outcome.NEW]
    assert again.get_order("after")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_damaged_while_open_is_replaced(store, open_store, path, damage):
    store.put_orders([look(str(n)) for n in range(200)])
    checkpoint(path)
    damage(path)
    assert store.put_orders([look("after")]) == [Outcome.NEW]
    assert store.get_order("after")
    assert open_store().get_order("after")


def test_a_damaged_file_is_kept_and_the_log_says_so(open_store, path, caplog):
    path.write_bytes(b"precious" * 1000)
    open_store().put_orders([look()])
    assert Path(f"{path}{SET_ASIDE}").read_bytes() == b"precious" * 1000
    assert "set-aside" in caplog.text


@pytest.mark.parametrize("companion", ["-wal", "-shm"])
def test_a_deleted_file_leaves_no_companions_behind(store, path, companion):
    store.put_orders([look("before")])
    os.remove(path)
    Path(f"{path}{companion}").write_bytes(b"\x07" * 5000)
    store.put_orders([look("after")])
    assert store.get_order("before") is None
    assert store.get_order("after")


def test_a_file_that_is_deleted_while_open_is_begun_anew_by_all(store, open_store, path):
    other = open_store()
    store.put_orders([look("before")])
    assert other.get_order("before")
    os.remove(path)
    store.put_orders([look("after")])
    assert other.get_order("before") is None
    assert other.get_order("after")
    assert store.marks().horizon is None


def test_a_file_that_is_deleted_while_open_may_first_be_read(store, path):
    store.put_orders([look()])
    os.remove(path)
    assert store.get_order("1") is None


@pytest.mark.parametrize("version", [store_module.VERSION + 1, 99, -1])
def test_a_file_of_another_schema_is_set_aside(store, open_store, path, version):
    store.put_orders([look()])
    store.close()
    run_sql(path, f"PRAGMA user_version = {version}")
    assert open_store().get_order("1") is None
    with contextlib.closing(sqlite3.connect(f"{path}{SET_ASIDE}")) as db:
        assert db.execute("SELECT count(*) FROM orders").fetchone() == (1,)


def test_a_file_of_another_origin_is_set_aside(open_store, path):
    first = open_store("AiFi one")
    first.put_orders([look()])
    first.close()
    assert open_store("AiFi two").get_order("1") is None
    assert Path(f"{path}{SET_ASIDE}").exists()


def test_a_file_of_the_same_origin_is_kept(open_store):
    first = open_store("AiFi one")
    first.put_orders([look()])
    first.close()
    assert open_store("AiFi one").get_order("1")


def test_only_the_last_file_is_set_aside(store, path):
    for _ in range(3):
        store.close()
        fill_with_garbage(path)
        store.put_orders([look()])
    store.close()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["orders.db", "orders.db.set-aside"]


def test_a_missing_folder_is_a_store_error(tmp_path):
    store = new_store(str(tmp_path / "nowhere" / "orders.db"))
    with pytest.raises(StoreError, match="folder"):
        store.marks()


def test_a_folder_in_the_files_place_is_a_store_error(path):
    path.mkdir()
    store = new_store(str(path))
    with pytest.raises(StoreError):
        store.marks()
    assert path.is_dir()
