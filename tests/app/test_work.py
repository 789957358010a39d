"""Work in a thread, its progress and its end."""

import threading

import pytest

from cardiff.app import work as module
from cardiff.app.work import Cancelled, Visitors, Work, progress_of


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.01)


def ended(generator):
    """All that a generator yields, and what it returns."""
    shares = []
    while True:
        try:
            shares.append(next(generator))
        except StopIteration as end:
            return shares, end.value


def test_the_result_is_returned_and_the_share_rises():
    work, half, seen = Work(2), threading.Event(), threading.Event()

    def function():
        work.advance()
        half.set()
        assert seen.wait(10)
        work.advance()
        return "picture"

    generator = progress_of(work, function)
    next(generator)
    assert half.wait(10)
    assert next(generator) == 0.5
    seen.set()
    assert ended(generator)[1] == "picture"
    assert work.done == 2


def test_what_fails_there_fails_here():
    def function():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        ended(progress_of(Work(1), function))


def endless(work, started):
    def function():
        while True:
            work.advance()
            started.set()

    return function


def test_stopped_work_ends_at_its_next_step():
    work, started = Work(10), threading.Event()
    generator = progress_of(work, endless(work, started))
    next(generator)
    assert started.wait(10)
    work.stop()
    with pytest.raises(Cancelled):
        ended(generator)


def test_a_share_is_at_most_one():
    work, started = Work(1), threading.Event()
    generator = progress_of(work, endless(work, started))
    next(generator)
    assert started.wait(10)
    assert next(generator) == 1.0
    generator.close()


def test_the_work_of_a_visitor_who_leaves_ends():
    """Gradio closes the generator; no thread goes on."""
    work, started = Work(10), threading.Event()
    before = threading.active_count()
    generator = progress_of(work, endless(work, started))
    next(generator)
    assert started.wait(10)
    generator.close()
    assert threading.active_count() == before


def test_visitors_stop_only_their_own_work():
    visitors = Visitors()
    mine, other_tab, yours = (visitors.start(*key, 1) for key in (("a", "draw"), ("a", "watch"), ("b", "draw")))
    visitors.stop("a", "draw")
    with pytest.raises(Cancelled):
        mine.advance()
    other_tab.advance()
    visitors.stop("a")  # has left
    with pytest.raises(Cancelled):
        other_tab.advance()
    yours.advance()
    visitors.stop("nobody")


def test_new_work_in_a_tab_stops_the_one_before():
    visitors = Visitors()
    first, second = visitors.start("a", "draw", 1), visitors.start("a", "draw", 1)
    with pytest.raises(Cancelled):
        first.advance()
    second.advance()
