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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes, children = [], []
    for rank in range(processes):
        ours, theirs = context.Pipe()
        launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **env(rank)}
        child = context.Process(target=_run, args=(work, rank, launched, theirs))
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
