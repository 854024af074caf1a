"""Tasks of several threads that are done in one go."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from errors import StoreError
from together import Together
from tools.harness import wait_until

SECONDS = 10


class Gate:
    """A work that doubles numbers; it keeps what it was given, waits to be let through, and fails on what is odd."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.begun, self.opened = threading.Event(), threading.Event()

    def __call__(self, numbers: list[int]) -> list[int]:
        self.calls.append(numbers)
        self.begun.set()
        assert self.opened.wait(SECONDS)
        if any(number % 2 for number in numbers):
            raise StoreError(f"odd: {numbers}")
        return [2 * number for number in numbers]


def test_what_comes_while_others_are_written_is_done_in_one_go():
    gate = Gate()
    together = Together(gate, SECONDS)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(together.do, 2)
        assert gate.begun.wait(SECONDS)
        others = [pool.submit(together.do, number) for number in range(10, 26, 2)]
        wait_until(lambda: len(together.waiting) == len(others), SECONDS, "all to wait")
        gate.opened.set()
        assert first.result(SECONDS) == 4
        assert [other.result(SECONDS) for other in others] == list(range(20, 52, 4))
    assert [len(call) for call in gate.calls] == [1, 8]


def test_a_task_that_fails_does_not_take_others_with_it():
    gate = Gate()
    together = Together(gate, SECONDS)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(together.do, 2)
        assert gate.begun.wait(SECONDS)
        others = {number: pool.submit(together.do, number) for number in (4, 5, 6)}
        wait_until(lambda: len(together.waiting) == len(others), SECONDS, "all to wait")
        gate.opened.set()
        assert first.result(SECONDS) == 4
        assert (others[4].result(SECONDS), others[6].result(SECONDS)) == (8, 12)
        with pytest.raises(StoreError, match=r"odd: \[5\]"):
            others[5].result(SECONDS)


def test_a_thread_waits_for_those_before_it_only_so_long():
    gate = Gate()
    together = Together(gate, 0.05)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(together.do, 2)
        assert gate.begun.wait(SECONDS)
        with pytest.raises(StoreError, match="busy"):
            together.do(4)
        gate.opened.set()
        assert first.result(SECONDS) == 4
    assert together.do(6) == 12
    assert gate.calls == [[2], [6]]


def test_a_thread_that_is_ended_in_the_middle_leaves_nobody_waiting():
    ends, begun, opened = [True], threading.Event(), threading.Event()

    def work(numbers: list[int]) -> list[int]:
        begun.set()
        assert opened.wait(SECONDS)
        if len(numbers) > 1 and ends.pop():
            raise SystemExit
        return numbers

    together = Together(work, SECONDS)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(together.do, 1)
        assert begun.wait(SECONDS)
        others = [pool.submit(together.do, number) for number in (2, 3)]
        wait_until(lambda: len(together.waiting) == len(others), SECONDS, "all to wait")
        opened.set()
        assert first.result(SECONDS) == 1
        failures = {type(other.exception(SECONDS)) for other in others}
    assert failures == {SystemExit, StoreError}
    assert together.do(4) == 4


def test_a_failure_is_the_own_one():
    gate = Gate()
    gate.opened.set()
    together = Together(gate, SECONDS)
    with pytest.raises(StoreError, match=r"odd: \[3\]"):
        together.do(3)
    assert together.do(4) == 8
