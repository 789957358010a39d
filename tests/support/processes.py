"""Several connected processes (gloo) in a test, forked, so that they need no second import."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from accelerate.state import AcceleratorState

from cardiff.distributed import this_process

DEADLINE = 60
"""Seconds after which processes count as waiting for each other for ever."""


def together(work: Callable[[int], Any], processes: int = 2, env: Callable[[int], dict] = lambda rank: {}) -> list:
    """Call `work` with the rank in connected processes, and return what they return, or the error that they raise.

    Args:
        work: Called in each process.
        processes: How many.
        env: Rank to more variables of its environment.
    """
    context = multiprocessing.get_context("fork")
    pipes, children = [], []
    for rank, launched in enumerate(connected(processes)):
        ours, theirs = context.Pipe()
        child = context.Process(target=_run, args=(work, rank, {**launched, **env(rank)}, theirs))
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    results: list = [TimeoutError(f"still running after {DEADLINE} s")] * processes
    left = dict(zip(pipes, range(processes)))
    while left and (ready := wait(left, timeout=DEADLINE)):
        for pipe in ready:
            rank = left.pop(pipe)
            try:
                results[rank] = pipe.recv()
            except EOFError:
                results[rank] = RuntimeError("ended without a result")
    for child in children:
        child.join(timeout=0 if left else DEADLINE)
        child.kill()
    return results


def connected(processes: int) -> list[dict[str, str]]:
    """The variables by which as many processes find each other, as torchrun sets them, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    every = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    found = [{"RANK": rank, "LOCAL_RANK": rank, **every} for rank in range(processes)]
    return [{name: str(value) for name, value in variables.items()} for variables in found]


def _run(work: Callable[[int], Any], rank: int, launched: dict, pipe: Connection) -> None:
    os.environ.update({name: str(value) for name, value in launched.items()})
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        this_process()
        result = work(rank)
    except BaseException as error:
        traceback.print_exc()
        result = error
    try:
        pipe.send(result)
    except Exception as error:
        pipe.send(RuntimeError(f"{result!r} cannot be sent: {error}"))
    pipe.close()
    os._exit(0)  # without what the test's own process has registered for its end
