"""Being asked to stop while training: a first signal is remembered, a second ends at once, handlers are given back."""

import os
import signal
import subprocess
import sys

import pytest

from cardiff.errors import lost_process_sentence
from cardiff.interrupt import CLOSED_PIPE, SIGNALS, GuardedStream
from cardiff.training.interrupt import StopRequest
from tests.support.processes import together


@pytest.fixture
def stop():
    request = StopRequest(1)
    yield request
    request.restore()


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_remembered(number, stop):
    assert not stop()
    os.kill(os.getpid(), number)
    assert stop() and stop() and stop.number == number


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_ends_at_once_and_without_a_traceback(second):
    code = (
        "import os, signal\nfrom cardiff.training.interrupt import StopRequest\nstop = StopRequest(1)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nassert stop()\nprint('first', flush=True)\n"
        f"os.kill(os.getpid(), {int(second)})\nprint('still there', flush=True)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (-second, "first\n", "")


def test_a_launcher_passes_on_what_its_processes_have_received(monkeypatch):
    """Within some seconds; later it is a second request."""
    code = (
        "import os, signal, time\nfrom cardiff.training import interrupt\ninterrupt.PATIENCE = 0.5\n"
        "stop = interrupt.StopRequest(1)\nfor _ in range(3): os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert stop()\nprint('saving', flush=True)\ntime.sleep(0.6)\nos.kill(os.getpid(), signal.SIGTERM)\n"
        "print('still there', flush=True)"
    )
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGTERM, "saving\n", "")


def test_a_request_to_one_process_stops_all():
    def work(rank):
        request = StopRequest(2)
        before = request()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        after = request()
        request.restore()
        return before, after, request.number

    assert together(work) == [(False, True, signal.SIGTERM)] * 2


def test_the_end_of_another_process_is_said_in_one_sentence():
    def work(rank):
        request = StopRequest(2)
        request()
        if rank == 1:
            os._exit(3)
        request()

    first, second = together(work)
    assert "Another process of this launch has ended" in lost_process_sentence(first)
    assert lost_process_sentence(RuntimeError("the size of tensor a must match")) is None
    assert lost_process_sentence(ConnectionResetError("gloo: reset by peer")) is None  # of something else
    assert "ended without a result" in str(second)


def test_a_closed_output_is_a_request_too(stop):
    GuardedStream.lost(CLOSED_PIPE)
    assert stop() and stop.number == CLOSED_PIPE


def test_handlers_are_given_back():
    before, lost = [signal.getsignal(number) for number in SIGNALS], GuardedStream.lost
    request = StopRequest(1)
    assert all(signal.getsignal(number) != handler for number, handler in zip(SIGNALS, before))
    assert GuardedStream.lost != lost
    request.restore()
    assert [signal.getsignal(number) for number in SIGNALS] == before and GuardedStream.lost == lost


def test_what_is_ignored_stays_ignored():
    """As SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        request = StopRequest(1)
        os.kill(os.getpid(), signal.SIGHUP)
        assert not request()
        request.restore()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
