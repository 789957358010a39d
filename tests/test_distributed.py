"""What the processes of a launch share, and what a device is called."""

import os
import platform
import signal
import subprocess
import sys
import time

import pytest
import torch

from cardiff.distributed import TIMEOUT, device_name, gather_dict, gather_to_main, on_main, one_first
from cardiff.errors import LOST_PROCESS, UserError
from tests.conftest import ROOT
from tests.support.processes import together


def test_processes_wait_longer_for_each_other_than_by_default():
    def timeout(rank):
        return torch.distributed.group.WORLD._get_backend(torch.device("cpu")).options._timeout

    assert together(timeout) == [TIMEOUT, TIMEOUT]


def test_what_is_gathered_and_where():
    def gather(rank):
        mine = {rank: "x" * (rank + 1) * 1000, "last": rank}
        return gather_dict(mine), gather_to_main(mine)

    (everywhere, main), (also, nothing) = together(gather)
    assert everywhere == also == main == {0: "x" * 1000, 1: "x" * 2000, "last": 1} and nothing == {}
    assert gather_dict({"alone": 1}) == gather_to_main({"alone": 1}) == {"alone": 1}


def test_the_main_process_works_and_all_get_the_result():
    def work(rank):
        did = []
        found = on_main(lambda: did.append(rank) or rank + 10)
        return did, found

    assert together(work) == [([0], 10), ([], 10)]


def test_an_error_of_the_main_process_is_raised_everywhere():
    def work(rank):
        def fail():
            raise UserError("The disk is full.") if kind == "user" else KeyError(1)

        on_main(fail)

    kind = "user"
    assert [str(error) for error in together(work)] == ["The disk is full."] * 2
    kind = "bug"
    first, second = together(work)
    assert isinstance(first, KeyError) and isinstance(second, UserError) and str(second) == LOST_PROCESS


def test_one_process_of_each_machine_is_first(tmp_path):
    """Two machines with two processes each; the second is slow."""

    def work(rank):
        file = tmp_path / f"machine-{rank // 2}"
        with one_first():
            made = not file.exists()
            if made:
                time.sleep(0.3 * (rank // 2))
                file.touch()
        return made

    def of_machine(rank):
        return {"LOCAL_RANK": rank % 2, "LOCAL_WORLD_SIZE": 2}

    assert together(work, processes=4, env=of_machine) == [True, False, True, False]


@pytest.mark.parametrize("exchange", [lambda: gather_dict({}), lambda: on_main(int), lambda: one_first().__enter__()])
def test_a_block_of_one_process_may_not_wait_for_others(exchange):
    """Found with one process, which would not wait."""
    with pytest.raises(AssertionError, match="would wait"):
        on_main(exchange)
    with pytest.raises(AssertionError, match="would wait"), one_first():
        exchange()
    gather_dict({})


# Errors

SCRIPT = """
import atexit, os, signal, sys, time
from cardiff.cli import one_sentence_errors
from cardiff.distributed import gather_dict, on_main, this_process
from cardiff.errors import LOST_PROCESS, UserError

@one_sentence_errors
def main(argv=None):
    rank = this_process().process_index
    atexit.register(time.sleep, 1000)  # as a library may wait for the other processes
    gather_dict({})
    failing, kind = sys.argv[1:]
    if failing in ("all", str(rank)):
        if kind == "user":
            raise UserError("The image is damaged: repair it.")
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyError("a bug")
    gather_dict({rank: rank})
    time.sleep(1000)

main()
"""


def end_of(failing: str, kind: str, tmp_path) -> list[tuple[int, str]]:
    """Exit status and standard error of two processes, of which some fail; the store is kept by neither."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = []
    for rank in range(2):
        environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "PYTHONPATH": str(ROOT)}
        environment |= {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        command = [sys.executable, str(script), failing, kind]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        return [(process.wait(timeout=60), process.stderr.read()) for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    "failing", [pytest.param("all", marks=pytest.mark.slow), pytest.param("0", marks=pytest.mark.slow), "1"]
)
def test_an_error_is_said_once_and_ends_every_process_at_once(failing, tmp_path):
    ended = end_of(failing, "user", tmp_path)
    assert [status for status, _ in ended] == [1, 1]
    said = "".join(err for _, err in ended)
    assert [line for line in said.splitlines() if "[W" not in line] == ["error: The image is damaged: repair it."]


@pytest.mark.slow
def test_a_bug_keeps_its_traceback_and_a_kill_is_said(tmp_path):
    (status, err), (other, quiet) = end_of("0", "bug", tmp_path)
    assert (status, other) == (1, 1) and "KeyError: 'a bug'" in err and "This is a bug in Cardiff" in err
    assert "Traceback" not in quiet and "error:" not in quiet
    (status, err), (other, _) = end_of("1", "killed", tmp_path)
    assert (status, other) == (1, -signal.SIGKILL)
    assert f"error: {LOST_PROCESS}" in err and "Traceback" not in err


def test_device_names(monkeypatch):
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    assert device_name(cpu) == "CPU"
    assert device_name(cpu, with_threads=True) == f"CPU ({platform.machine()}), {threads} threads"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU number {device.index}")
    assert device_name(torch.device("cuda", 1)) == device_name(torch.device("cuda", 1), True) == "GPU number 1"
