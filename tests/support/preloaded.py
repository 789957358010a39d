"""Scripts in processes of their own, without the ten seconds that importing the large libraries takes in each.

A server imports them once, and forks for every script. What is forked has imported nothing of the project, runs the
script as __main__ in a session of its own, with the environment and the limits of the test, and ends as Python does.
"""

import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

LIBRARIES = """torch torch.utils.data torchvision.transforms diffusers diffusers.models.unets.unet_2d accelerate
datasets transformers sklearn.svm scipy.linalg matplotlib.figure jsonargparse huggingface_hub safetensors.torch yaml"""
OWN = ("CARDIFF_", "PYTEST_", "ACCELERATE_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_")
"""Beginnings of the variables that no library reads when it is imported."""


def _imported_with(env: dict[str, str]) -> dict[str, str]:
    """The variables that an import may have read."""
    return {name: value for name, value in env.items() if not name.startswith(OWN)}


class Server:
    """A process that forks; it ends with the one that started it, or with `close`."""

    def __init__(self) -> None:
        """Start it, with the environment of now."""
        self.env = dict(os.environ)
        self.folder = tempfile.TemporaryDirectory(prefix="preloaded-")
        self.address = str(Path(self.folder.name) / "socket")
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def serves(self, env: dict[str, str]) -> bool:
        """Whether the libraries would be the same if they were imported with this environment."""
        return _imported_with(env) == _imported_with(self.env)

    def start(self, script: Path, *options: str, cwd: Path, env: dict[str, str]) -> "Process":
        """Run a script as `python SCRIPT OPTIONS` would."""
        limits = {number: resource.getrlimit(number) for number in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)}
        asked = {"argv": [str(script), *options], "cwd": str(cwd), "env": env, "limits": limits}
        return Process(self.address, asked)

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.folder.cleanup()


class Process:
    """What a test uses of subprocess.Popen, for a process that another one has forked."""

    def __init__(self, address: str, asked: dict[str, Any]) -> None:
        """Have it forked."""
        self.returncode: int | None = None
        self.args = asked["argv"]
        pipes = [os.pipe() for _ in range(2)]
        self.stdout, self.stderr = (read for read, _ in pipes)
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(address)
        text = json.dumps(asked).encode()
        socket.send_fds(self.connection, [len(text).to_bytes(8, "big")], [write for _, write in pipes])
        self.connection.sendall(text)
        for _, write in pipes:
            os.close(write)
        self.said: IO[str] = self.connection.makefile("r")
        self.pid = int(self.said.readline())

    def poll(self) -> int | None:
        """How it ended; None if it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it prints, until both pipes are closed."""
        found = {self.stdout: b"", self.stderr: b""}
        waiting, deadline = list(found), None if timeout is None else time.monotonic() + timeout
        while waiting:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select(waiting, [], [], left)
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            for pipe in ready:
                part = os.read(pipe, 1 << 16)
                found[pipe] += part
                if not part:
                    waiting.remove(pipe)
        for pipe in found:
            os.close(pipe)
        self.wait(timeout)
        return found[self.stdout].decode(), found[self.stderr].decode()

    def send_signal(self, number: int) -> None:
        """Signal it, and not what it has started."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self.connection], [], [], timeout)[0]:
            self.returncode = int(self.said.readline())
        return self.returncode


class Together:
    """Several connected processes as one; it fails if one of them does, and what they print comes by rank."""

    def __init__(self, processes: list[Process]) -> None:
        """They have been started."""
        self.processes = processes

    @property
    def returncode(self) -> int | None:
        """That of the first that failed, or 0."""
        codes = [process.poll() for process in self.processes]
        return next((code for code in codes if code != 0), 0)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that they print."""
        with ThreadPoolExecutor(len(self.processes)) as pool:
            found = list(pool.map(lambda process: process.communicate(timeout), self.processes))
        return "".join(out for out, _ in found), "".join(err for _, err in found)


def _serve(address: str) -> Any:
    """Fork for each connection; in what was forked, the request."""
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that nobody needs to wait for those that wait
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [], 5)
            if sys.stdin in ready or os.getppid() != parent:
                return None
            if not ready:
                continue
            connection, _ = listener.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, pipes, _, _ = socket.recv_fds(connection, 8, 2)
    text = b""
    while len(text) < int.from_bytes(length, "big"):
        text += connection.recv(1 << 16)
    child = os.fork()
    if child:  # this process only waits
        for pipe in pipes:
            os.close(pipe)
        connection.sendall(f"{child}\n".encode())
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            connection.sendall(f"{status}\n".encode())
        finally:
            os._exit(0)
    connection.close()
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for given, number in zip([null, *pipes], range(3)):
        os.dup2(given, number)
        os.close(given)
    return json.loads(text)


def _main() -> None:
    address = sys.argv[1]
    sys.path.pop(0)  # the folder of this file
    for library in LIBRARIES.split():
        __import__(library)
    asked = _serve(address)
    if asked is None:
        os._exit(0)  # tidying up takes seconds, too
    for number, limits in asked["limits"].items():
        resource.setrlimit(int(number), limits)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = asked["argv"]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _main()
