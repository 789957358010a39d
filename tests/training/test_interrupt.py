"""Being asked to stop: the first signal is remembered, a second one ends at once, and handlers are given back."""

import os
import signal

import pytest

from cardiff.training.interrupt import StopRequest


@pytest.fixture
def stop():
    request = StopRequest(1)
    yield request
    request.restore()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_remembered(number, stop):
    assert not stop()
    os.kill(os.getpid(), number)
    assert stop() and stop()


def test_a_second_interrupt_ends_at_once(stop):
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_term_ends_at_once(stop):
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_handlers_are_given_back():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    request = StopRequest(1)
    assert all(signal.getsignal(number) != handler for number, handler in zip(numbers, before))
    request.restore()
    assert [signal.getsignal(number) for number in numbers] == before
