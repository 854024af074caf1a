"""Processes that share one database: they write at once, hold a lock, cannot write, or die."""

import contextlib
import fcntl
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

import sqlite
from errors import StoreError
from marks import MarksMoved
from orders import Outcome, Snapshot
from store import Store
from tests.support import Clock, ago, ids, is_server, look, lose, move_marks, new_store, status
from times import DAY, shift
from tools.harness import wait_until

PROCESS_SECONDS = 30
SPAWN = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks


@contextlib.contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[Any, Any]]:
    """Run a process that reports through a pipe; yield both, and end it at the latest after the block."""
    ours, theirs = SPAWN.Pipe(duplex=False)
    child = SPAWN.Process(target=target, args=(*arguments, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        yield child, ours
    finally:
        child.kill()
        child.join(PROCESS_SECONDS)
        child.close()
        ours.close()


def receive(pipe: Any) -> Any:
    """Return what a process reports next."""
    assert pipe.poll(PROCESS_SECONDS), "the process reports nothing"
    return pipe.recv()


# --- many at once


def _write(place: str, writer: int, rounds: int) -> None:
    """Put orders of one's own and one that all share, serve pages between."""
    store = new_store(place)
    for n in range(rounds):
        store.put_orders([look(f"{writer}-{n}"), look("shared", shift(ago(300), n), tax_amount=float(n))])
        store.serve_page(5, None, may_be_short=True)
        store.take_request_slot(0.01)
    store.close()


def _write_in_threads(place: str, writer: int, rounds: int, result: Any) -> None:
    sqlite.BUSY_SECONDS = PROCESS_SECONDS  # the disk may be slow
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda thread: _write(place, 2 * writer + thread, rounds), range(2)))
    except StoreError as error:
        result.send(str(error))
    else:
        result.send("done")


def _take_slots(place: str, count: int, result: Any) -> None:
    store = new_store(place, clock=Clock())
    result.send([store.take_request_slot(0.5) for _ in range(count)])
    store.close()


def test_processes_and_threads_that_write_at_once_lose_nothing(store, place):
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(process(_write_in_threads, place, n, 25))[1] for n in range(3)]
        assert [receive(pipe) for pipe in pipes] == ["done"] * 3
    expected = {f"{writer}-{n}" for writer in range(6) for n in range(25)} | {"shared"}
    assert set(ids(store)) == expected
    assert store.get_order("shared").order["tax_amount"] == 24.0


def test_processes_share_the_request_slots(store, place):
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(process(_take_slots, place, 10))[1] for _ in range(3)]
        waits = sorted(wait for pipe in pipes for wait in receive(pipe))
    assert waits == pytest.approx([0.5 * n for n in range(30)])


def _count_failures(place: str, rounds: int, result: Any) -> None:
    """Add one to a mark so many times, and read it again whenever somebody else was faster."""
    sqlite.BUSY_SECONDS = PROCESS_SECONDS
    store = new_store(place)
    for _ in range(rounds):
        while True:
            marks = store.marks()
            with contextlib.suppress(MarksMoved):
                store.move_marks(marks, failures=marks.failures + 1)
                break
    store.close()
    result.send("done")


def test_processes_that_move_one_mark_at_once_undo_none_of_each_others_moves(store, place):
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(process(_count_failures, place, 25))[1] for _ in range(3)]
        assert [receive(pipe) for pipe in pipes] == ["done"] * 3
    assert store.marks().failures == 75


def _take_turns(place: str, turns: int, result: Any) -> None:
    """Take a lock so many times, and report when each turn began and ended, by a clock that all processes share."""
    store = new_store(place)
    held: list[tuple[float, float]] = []
    while len(held) < turns:
        with store.lock("refresh") as is_free:
            if is_free:
                begun = time.monotonic()
                time.sleep(0.002)
                held.append((begun, time.monotonic()))
    result.send(held)


def test_processes_hold_a_lock_one_after_the_other(place):
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(process(_take_turns, place, 10))[1] for _ in range(3)]
        held = sorted(turn for pipe in pipes for turn in receive(pipe))
    assert len(held) == 30
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(held))


# --- a file that others hold


def _put_as_nobody(place: str, result: Any) -> None:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        new_store(place).put_orders([look()])
    except StoreError as error:
        result.send(f"StoreError: {error}")
    else:
        result.send("put")


def test_a_folder_that_cannot_be_written_is_a_store_error():
    folder = tempfile.mkdtemp()  # not in tmp_path, which is closed to all other users
    os.chmod(folder, 0o555)
    try:
        with process(_put_as_nobody, os.path.join(folder, "orders.db")) as (_, pipe):
            assert receive(pipe).startswith("StoreError")
    finally:
        shutil.rmtree(folder)


def _hold_write_lock(place: str, result: Any) -> None:
    db = sqlite3.connect(place, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    result.send("locked")
    time.sleep(PROCESS_SECONDS)


def _hold_directory_lock(place: str, result: Any) -> None:
    fcntl.flock(os.open(os.path.dirname(place), os.O_RDONLY), fcntl.LOCK_EX)
    result.send("locked")
    time.sleep(PROCESS_SECONDS)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.3)


@pytest.mark.usefixtures("impatient")
def test_a_file_locked_by_another_process_can_be_read_but_not_written(store, open_store, path):
    store.put_orders([look("before")])
    reader = open_store()
    reader.marks()
    with process(_hold_write_lock, str(path)) as (_, pipe):
        assert receive(pipe) == "locked"
        assert reader.get_order("before")
        begun = time.monotonic()
        with pytest.raises(StoreError, match="locked"):
            reader.put_orders([look("during")])
        assert time.monotonic() - begun < 5
    assert reader.put_orders([look("after")]) == [Outcome.NEW]
    assert reader.get_order("before")


@pytest.mark.usefixtures("impatient")
def test_a_folder_locked_by_another_process_is_a_store_error_in_time(open_store, path):
    store = open_store()
    with process(_hold_directory_lock, str(path)) as (_, pipe):
        assert receive(pipe) == "locked"
        begun = time.monotonic()
        with pytest.raises(StoreError, match="another process"):
            store.marks()
        assert time.monotonic() - begun < 5
    assert store.put_orders([look()]) == [Outcome.NEW]


# --- processes that die


def _write_batches(place: str, result: Any) -> None:
    """Put batches of 50 orders for ever, and report each one that was acknowledged."""
    store = new_store(place)
    batch = 0
    while True:
        store.put_orders([look(f"{batch}-{n}") for n in range(50)])
        result.send(batch)
        batch += 1


class _Stuck(dict):
    """An order that stops the process in the middle of its transaction."""

    def __init__(self, result: Any, order: Any):
        super().__init__(order)
        self._result = result

    def get(self, *arguments: Any) -> Any:
        self._result.send("in the middle")
        time.sleep(PROCESS_SECONDS)
        return super().get(*arguments)


def _stop_within_a_batch(place: str, result: Any) -> None:
    last = look("last")
    stuck = Snapshot(last.id, _Stuck(result, last.order), last.at, last.source)
    new_store(place).put_orders([look("first", status="contested"), look("new"), stuck])


def batches(store: Store) -> dict[int, int]:
    """Return how many orders of each batch are there."""
    counts: dict[int, int] = {}
    for order_id in ids(store):
        counts[int(order_id.split("-")[0])] = counts.get(int(order_id.split("-")[0]), 0) + 1
    return counts


def check_integrity(place: str) -> None:
    if not is_server(place):
        with contextlib.closing(sqlite3.connect(place)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("acknowledgements", [1, 5, 20])
def test_what_was_acknowledged_survives_a_kill_and_nothing_is_there_in_part(open_store, place, acknowledgements):
    with process(_write_batches, place) as (child, pipe):
        acknowledged = [receive(pipe) for _ in range(acknowledgements)]
        time.sleep(random.random() * 0.01)  # somewhere within a batch
        os.kill(child.pid, signal.SIGKILL)
        child.join(PROCESS_SECONDS)
        with contextlib.suppress(EOFError):
            while pipe.poll():
                acknowledged.append(pipe.recv())
    store = open_store()
    move_marks(store, horizon=ago(DAY), complete=1)
    there = batches(store)
    assert set(acknowledged) <= set(there)
    assert set(there.values()) == {50}
    check_integrity(place)


def test_a_kill_within_a_transaction_undoes_it_and_frees_the_file(store, place):
    store.put_orders([look("first"), look("last")])
    with process(_stop_within_a_batch, place) as (child, pipe):
        assert receive(pipe) == "in the middle"
        os.kill(child.pid, signal.SIGKILL)
        child.join(PROCESS_SECONDS)
    assert (status(store, "first"), store.get_order("new")) == ("paid", None)
    assert store.put_orders([look("after")]) == [Outcome.NEW]
    check_integrity(place)


def is_lock_free(store: Store) -> bool:
    with store.lock("refresh") as is_free:
        return is_free


def _hold_lock(place: str, in_refresh: bool, result: Any) -> None:
    store = new_store(place)
    with store.lock("refresh") as is_free:
        result.send(is_free)
        if in_refresh:  # in the middle of a transaction, too
            _stop_within_a_batch(place, result)
        time.sleep(PROCESS_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
@pytest.mark.parametrize("in_refresh", [False, True], ids=["idle", "writing"])
def test_a_lock_dies_with_its_process(store, place, in_refresh, number):
    store.put_orders([look("first"), look("last")])
    with process(_hold_lock, place, in_refresh) as (child, pipe):
        assert receive(pipe) is True
        if in_refresh:
            assert receive(pipe) == "in the middle"
        with store.lock("refresh") as is_free:
            assert not is_free
        os.kill(child.pid, number)
        child.join(PROCESS_SECONDS)
        wait_until(lambda: is_lock_free(store), PROCESS_SECONDS, "the lock")  # a server must notice it first
    assert store.put_orders([look("after")]) == [Outcome.NEW]


def _start_a_child_with_the_lock(place: str, result: Any) -> None:
    with new_store(place).lock("refresh") as is_free:
        result.send(is_free)
        child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({PROCESS_SECONDS})"])
        result.send(child.pid)
        time.sleep(PROCESS_SECONDS)


def test_a_lock_is_not_left_to_a_process_that_its_holder_started(store, place):
    with process(_start_a_child_with_the_lock, place) as (child, pipe):
        assert receive(pipe) is True
        grandchild = receive(pipe)
        os.kill(child.pid, signal.SIGKILL)
        child.join(PROCESS_SECONDS)
        try:
            wait_until(lambda: is_lock_free(store), PROCESS_SECONDS, "the lock")
        finally:
            os.kill(grandchild, signal.SIGKILL)


def _move_marks_late(place: str, result: Any) -> None:
    """Read the marks and go on only when the reader has replaced the file."""
    store = new_store(place)
    marks = store.marks()
    result.send("read")
    while store.marks().file == marks.file:
        time.sleep(0.01)
    try:
        store.move_marks(marks, horizon=ago(DAY), complete=1)
    except MarksMoved:
        result.send("moved nothing")


def test_a_process_whose_file_was_lost_moves_no_mark_of_the_new_one(store, place):
    with process(_move_marks_late, place) as (_, pipe):
        assert receive(pipe) == "read"
        lose(place)
        move_marks(store, horizon=ago(60))
        assert receive(pipe) == "moved nothing"
    assert (store.marks().horizon, store.marks().complete) == (ago(60), 0)
