"""The file: threads that share it, damage, loss, another schema or origin, and folders that cannot be used."""

import contextlib
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import database as database_module
import store as store_module
from errors import StoreError
from tests.support import ago, ids, look, new_store
from times import DAY

PATIENCE_SECONDS = 30  # the disk may be slow

# --- many at once


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", PATIENCE_SECONDS)


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
def test_stores_that_open_a_new_file_at_once_agree_on_it(path):
    stores = [new_store(str(path)) for _ in range(8)]
    gate = threading.Barrier(8)

    def put(n: int) -> None:
        gate.wait(PATIENCE_SECONDS)
        stores[n].put_orders([look(str(n))])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(8)))
    stores[0].set_marks(horizon=ago(DAY), complete=1)
    assert sorted(ids(stores[0])) == [str(n) for n in range(8)]
    for store in stores:
        store.close()


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
    assert again.put_orders([look("after")]) == (1, 0)
    assert again.get_order("after")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_damaged_while_open_is_replaced(store, open_store, path, damage):
    store.put_orders([look(str(n)) for n in range(200)])
    checkpoint(path)
    damage(path)
    assert store.put_orders([look("after")]) == (1, 0)
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
