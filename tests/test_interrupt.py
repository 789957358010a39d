"""Commands that are stopped, or whose output nobody reads: in good order, with a status of their own, no traceback."""

import os
import signal
import subprocess
import sys

import pytest

from cardiff.interrupt import CLOSED_PIPE, SIGNALS, GuardedStream, Stopped

COMMAND = """
import sys, time
from cardiff.cli import one_sentence_errors
from cardiff.files import written_aside
from pathlib import Path

@one_sentence_errors
def main(argv=None):
    with written_aside(Path(argv[0], "result")) as aside:
        aside.write_text("half")
        print("working", flush=True)
        {work}

main(sys.argv[1:])
"""


def command(folder, work, **more):
    code = COMMAND.format(work=work)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], text=True, env=buffered, **pipes)
    assert process.stdout.readline() == "working\n"
    return process


def test_which_signals_ask_a_command_to_stop():
    assert set(SIGNALS) == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_in_good_order(number, tmp_path):
    process = command(tmp_path, "time.sleep(100)")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (128 + number, "", f"Stopped by {number.name}.\n")
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_a_second_signal_ends_it_at_once(tmp_path):
    """Also where the first one's work is not done."""
    work = "\n        try: print('on it', flush=True); time.sleep(100)\n"
    work += "        finally: print('cleaning', flush=True); time.sleep(100)"
    process = command(tmp_path, work)
    assert process.stdout.readline() == "on it\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "") and process.returncode == -signal.SIGINT


def test_ignored_signals_stay_ignored(tmp_path):
    work = "sys.stdin.readline(); print('done', flush=True)"
    process = command(
        tmp_path,
        work,
        stdin=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate("\n", timeout=20)
    assert (process.returncode, out, err) == (0, "done\n", "")


@pytest.mark.parametrize("work", ["[print(i) for i in range(100_000)]", "print('short')"])
def test_a_closed_output_is_no_traceback(work, tmp_path):
    process = command(tmp_path, f"sys.stdin.readline(); {work}", stdin=subprocess.PIPE)
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stderr.read() == "" and process.wait(20) == 128 + CLOSED_PIPE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
def test_a_log_on_a_full_disk_stops_nothing(tmp_path):
    with open("/dev/full", "w") as full:
        code = COMMAND.format(work="print('x' * 100_000, flush=True)")
        result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 0 and result.stderr == b""
    assert (tmp_path / "result").read_text() == "half"


def test_a_guarded_stream_is_the_stream(tmp_path):
    with open(tmp_path / "log", "w") as file:
        stream = GuardedStream(file)
        assert stream.write("abc") == 3 and stream.name == file.name and not stream.isatty()
        stream.flush()
    assert (tmp_path / "log").read_text() == "abc"


@pytest.mark.parametrize(("number", "status", "words"), [(15, 143, "SIGTERM"), (13, 141, "a closed output")])
def test_the_status_is_that_of_a_shell(number, status, words):
    assert Stopped(number).exit_status == status and str(Stopped(number)) == f"Stopped by {words}"
