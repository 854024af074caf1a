"""Tasks of several threads, done by one of them in one go: where each waits for the disk, they wait for it once."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from errors import StoreError

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Does the tasks of all threads that wait by one call, in one of these threads.

    `waiting`: the tasks that nobody does yet, with what will become of them.

    :param work: does tasks, and returns a result for each
    :param seconds: how long a thread waits for those before it
    """

    def __init__(self, work: Callable[[list[T]], list[R]], seconds: float):
        self._work, self._seconds = work, seconds
        self._changed = threading.Condition()
        self.waiting: list[tuple[T, Future[R]]] = []
        self._is_working = False

    def do(self, task: T) -> R:
        """Do a task, with those of others; return its result.

        :raises StoreError: the work failed, or others took too long
        """
        entry, deadline = (task, Future[R]()), time.monotonic() + self._seconds
        if entries := self._wait_for_turn(entry):
            try:
                self._do_all(entries, deadline)
            finally:
                for _, future in entries:
                    if not future.done():  # the thread itself is being ended
                        future.set_exception(StoreError("the work was broken off"))
                with self._changed:
                    self._is_working = False
                    self._changed.notify_all()
        return entry[1].result()

    def _wait_for_turn(self, entry: tuple[T, Future[R]]) -> list[tuple[T, Future[R]]]:
        """Return the tasks that this thread is to do; none where another one has done its own."""
        with self._changed:
            self.waiting.append(entry)
            if not self._changed.wait_for(lambda: entry[1].done() or not self._is_working, self._seconds):
                if entry in self.waiting:
                    self.waiting.remove(entry)
                raise StoreError("the database is busy")
            if entry[1].done():
                return []
            self._is_working, entries = True, self.waiting
            self.waiting = []
            return entries

    def _do_all(self, entries: list[tuple[T, Future[R]]], deadline: float) -> None:
        """Do these tasks; where that fails, each by itself, so that none fails for another one's sake."""
        try:
            results = self._work([task for task, _ in entries])
        except Exception as error:  # noqa: BLE001 - whoever gave the task raises it
            for entry in entries:
                if len(entries) > 1 and time.monotonic() < deadline:
                    self._do_all([entry], deadline)
                else:
                    entry[1].set_exception(error)
        else:
            for (_, future), result in zip(entries, results, strict=True):
                future.set_result(result)
