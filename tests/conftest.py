"""Fixtures: everything offline, one process at a time, a small labelled set, and the real scripts as subprocesses."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

# One thread a process: tests launch several processes on few cores, and sums must not depend on the machine.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "true"

import pytest
import torch
from accelerate.state import AcceleratorState
from matplotlib.figure import Figure
from PIL import Image

from cardiff.interrupt import SIGNALS
from tests.support.preloaded import Server, Together
from tests.support.processes import connected

# A pytest in the background of a script has inherited an ignored Ctrl-C, and so would what it launches.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
TINY_UNET = [
    *("--unet.block_out_channels", "[8,16]", "--unet.norm_num_groups", "4", "--unet.layers_per_block", "1"),
    *("--unet.down_block_types", "[DownBlock2D,AttnDownBlock2D]"),
    *("--unet.up_block_types", "[AttnUpBlock2D,UpBlock2D]", "--unet.attention_head_dim", "8"),
    *("--train.mixed_precision", "no"),
]
"""Options that make any configuration's UNet small enough for a test, in float32 on every CPU."""


TINY_CLASSIFIER = [
    *("--classifier.block_out_channels", "[8,16]", "--classifier.norm_num_groups", "4"),
    *("--classifier.down_block_types", "[DownBlock2D,AttnDownBlock2D]", "--classifier.attention_head_dim", "8"),
    *("--train.mixed_precision", "no"),
]


@pytest.fixture(scope="session", autouse=True)
def image_cache(tmp_path_factory):
    """Image stores go into a folder of the test session, shared by all tests."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cache")
    os.environ["CARDIFF_CACHE"] = str(folder)
    os.environ["HF_DATASETS_CACHE"] = str(folder / "datasets")
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps one state per process; each test starts without."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def signals_given_back():
    """A trainer takes Ctrl-C and SIGTERM until it is finished: left with it, the next Ctrl-C would do nothing."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    taken = [number.name for number, handler in before.items() if signal.getsignal(number) != handler]
    for number, handler in before.items():
        signal.signal(number, handler)
    assert not taken, f"The test leaves {taken} with a trainer that it has not finished."


@pytest.fixture
def digits_options():
    """Options of a tiny run on the digits."""
    return [
        *("--config", str(ROOT / "configs/digits_16_conditional.yaml")),
        *("--data.data_files", str(ROOT / "data/digits.parquet")),
        *TINY_UNET,
        *("--train.sample_images", "4", "--train.sample_steps", "2", "--train.trackers", "[]"),
        *("--train.sample_every", "0", "--train.checkpoint_every", "0", "--train.log_every", "1"),
    ]


@pytest.fixture
def classifier_options():
    """Options of a tiny classifier of the digits."""
    return [
        *("--config", str(ROOT / "configs/digits_16_classifier.yaml")),
        *("--data.data_files", str(ROOT / "data/digits.parquet")),
        *TINY_CLASSIFIER,
        *("--train.report_every", "0", "--train.checkpoint_every", "0", "--train.log_every", "1"),
        *("--train.trackers", "[]"),
    ]


@pytest.fixture(scope="session")
def preloaded():
    """The server that runs scripts without importing the large libraries each time."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def launch(preloaded):
    """Run a root script as its user would; returns the finished process with its output as text.

    Several processes are started by Accelerate's own launcher if a configuration of it is named, or `launcher` is set.
    """

    def run(script, *options, processes=1, accelerate_config=None, launcher=False, check=True, wait=True, env=None):
        options, environment = [str(option) for option in options], {**os.environ, **(env or {})}
        if accelerate_config or launcher or not preloaded.serves(environment):
            process = accelerated(script, options, processes, accelerate_config, environment)
        elif processes > 1:
            process = Together(
                [
                    preloaded.start(ROOT / script, *options, cwd=ROOT, env={**environment, **variables})
                    for variables in connected(processes)
                ]
            )
        else:
            process = preloaded.start(ROOT / script, *options, cwd=ROOT, env=environment)
        if not wait:
            return process
        process.out, process.err = process.communicate(timeout=300)
        assert not check or process.returncode == 0, process.err[-3000:]
        return process

    return run


def accelerated(script, options, processes, accelerate_config, environment):
    """A script in new processes, started by Accelerate's launcher where there are several."""
    command = [sys.executable, str(ROOT / script), *options]
    if accelerate_config:
        config = ROOT / "configs/accelerate" / accelerate_config
        command[:1] = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        if processes > 1:
            command[5:5] = ["--num_processes", str(processes), "--main_process_port", "0"]
    elif processes > 1:
        command[:1] = [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"),
            *("--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no"),
            *("--main_process_port", "0"),
        ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are composed and saved, but nothing is drawn on them, which takes most of the time of a report."""

    def blank(figure, file, *, dpi, **kwargs):
        Image.new("L", [round(inches * dpi) for inches in figure.get_size_inches()]).save(file, "png")

    monkeypatch.setattr(Figure, "savefig", blank)


@pytest.fixture
def small_files():
    """No file may be larger than 8 KiB, which is what a full disk looks like to a program."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)
