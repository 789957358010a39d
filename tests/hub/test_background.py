"""Uploads beside a training run, to a Hub of the loopback address."""

import json
import os

import pytest
from huggingface_hub import constants

import train_conditional
from cardiff.config.sections import HubOptions
from cardiff.hub import background
from cardiff.hub.background import BackgroundPublisher
from cardiff.hub.serialization import load_pipeline
from cardiff.training import checkpoint as checkpoints
from tests.support.hub_server import HubServer
from tests.support.pushed import PIPELINE_FILES


def options(digits_options, folder, *more):
    steps = ("--train.max_steps", "2", "--train.batch_size", "4", "--train.sample_every", "2")
    return [*digits_options, *steps, "--output_dir", str(folder), *more]


def test_a_run_is_published_and_resumed_elsewhere(hub, tmp_path, digits_options, capsys):
    more = ("--push_to_hub", "--hub_model_id", "user/run", "--hub_private", "--hub_resume_id", "user/state")
    assert train_conditional.main(options(digits_options, tmp_path / "run", *more))
    assert "Published user/run." in capsys.readouterr().out
    assert all(repository.private for repository in hub.repositories.values())
    files = hub.repositories["user/run"].files()
    assert {"run.json", "samples.png", "pipeline_class_conditional.py"} | PIPELINE_FILES == set(files)
    assert json.loads(files["run.json"])["config"]["data"]["data_files"] == "digits.parquet"
    assert not [name for name, data in files.items() if str(tmp_path).encode() in data]
    state = hub.repositories["user/state"].files()
    assert {name.split("/")[0] for name in state} == {".gitattributes", "step-00000002"}
    assert not [name for name, data in state.items() if str(tmp_path).encode() in data]

    # Another machine goes on from there, and comes to what the first comes to.
    longer = ("--train.max_steps", "4", "--train.lr_schedule", "constant")
    for folder, source in (("run", ()), ("elsewhere", ("--resume_from", "user/state"))):
        assert train_conditional.main(options(digits_options, tmp_path / folder, *source, *longer))
    weights = [tmp_path / f / "unet/diffusion_pytorch_model.safetensors" for f in ("run", "elsewhere")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert "Took the checkpoint of step 2 from user/state." in capsys.readouterr().out

    # Where it has checkpoints of its own, the same command needs no Hub.
    hub.fail("GET /api/models", 500, times=float("inf"))
    again = options(digits_options, tmp_path / "elsewhere", "--resume_from", "user/state", *longer)
    assert train_conditional.main(again)
    assert "user/state cannot be read: the Hub returned an error (500). Going on" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train_conditional.main(options(digits_options, tmp_path / "third", "--resume_from", "user/state"))


def test_a_hub_that_refuses_does_not_stop_training(hub, tmp_path, digits_options, capsys):
    hub.fail("POST /api/", 403, times=float("inf"))
    more = ("--push_to_hub", "--hub_model_id", "user/run")
    assert train_conditional.main(options(digits_options, tmp_path / "run", *more))
    out = capsys.readouterr().out
    assert f"Publish later with: python publish.py --model {tmp_path / 'run'} --hub_model_id user/run" in out
    assert "(403)" in out and "hf_writer" not in out and "Trained to step 2" in out
    assert load_pipeline(tmp_path / "run").id2label[3] == "three"


@pytest.mark.slow
def test_two_launched_processes_and_a_hub_with_faults(tmp_path, digits_options, launch):
    """What is trained is bit for bit what is trained without a Hub, and the last model arrives all the same."""
    run = ("--train.max_steps", "9", "--train.batch_size", "8", "--train.checkpoint_every", "3")
    launch("train_conditional.py", *digits_options, *run, "--output_dir", tmp_path / "alone", processes=2)
    with HubServer() as server:
        server.fail("POST /api/repos/create", 500)
        server.fail("POST /api/models/user/run/commit", 500, times=2)
        server.fail("PUT /lfs/", "cut")
        server.fail("POST /api/models/user/run/preupload", 429, headers={"Retry-After": "1"})
        more = ("--output_dir", tmp_path / "run", "--push_to_hub", "--hub_model_id", "user/run", "--hub_private")
        environment = server.environment(tmp_path / "home")
        ended = launch("train_conditional.py", *digits_options, *run, *more, processes=2, env=environment)
        repository = server.repositories["user/run"]
        assert repository.private and repository.branches["main"][-1].message == "Model of step 9"
        assert all(fault.left == 0 for fault in server.faults)
    assert "Published user/run." in ended.out and "hf_writer" not in ended.out + ended.err
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert repository.files()[name] == (tmp_path / "run" / name).read_bytes()
    state = "checkpoints/step-00000009/training/optimizer.safetensors"
    assert (tmp_path / "run" / state).read_bytes() == (tmp_path / "alone" / state).read_bytes()


class Upload:
    """A process that ends when told to."""

    pid = 7

    def __init__(self, command, stdout, **_):
        self.options, self.log, self.returncode = json.loads(command[-1]), stdout, None

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        self.returncode = 0 if self.returncode is None else self.returncode

    def kill(self):
        self.returncode = -9


def test_one_upload_at_a_time_the_newest_next(hub, tmp_path, monkeypatch):
    """What is being uploaded stays where it is, what waits is replaced, a warning is printed once."""
    started, said, priorities = [], [], []

    def start(*args, **kwargs):
        started.append(Upload(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(background.subprocess, "Popen", start)
    monkeypatch.setattr(os, "setpriority", lambda *given: priorities.append(given))
    publisher = BackgroundPublisher(tmp_path / "run", HubOptions(push_to_hub=True))
    publisher.open(said.append)
    root = tmp_path / "run/checkpoints"
    for step in (1, 2, 3):
        checkpoints.checkpoint_dir(root, step).mkdir(parents=True)
        publisher.push(checkpoints.checkpoint_dir(root, step))
    assert len(started) == 1 and publisher.in_use.name == "step-00000001"
    checkpoints.prune(root, 1, 0, publisher.in_use)
    assert [p.name for p in checkpoints.list_checkpoints(root)] == ["step-00000001", "step-00000003"]
    for process in (0, 1):
        started[process].log.write("noise\nerror: user/run: no.\n")
        started[process].returncode = 1
        publisher.push(checkpoints.checkpoint_dir(root, 4 + process))
    assert [s.options["model"][-1] for s in started] == ["1", "4", "5"]
    assert priorities == [(os.PRIO_PROCESS, 7, background.NICENESS)] * 3
    assert len([line for line in said if "user/run: no." in line]) == 1
    publisher.finish(checkpoints.checkpoint_dir(root, 6))
    assert started[-1].options["model"].endswith("6") and said[-1] == "Published user/run."
    publisher.push(checkpoints.checkpoint_dir(root, 7))
    publisher.finish(None)
    assert started[-1].returncode == -9 and "publish with: python publish.py" in said[-1]


def test_a_process_that_cannot_be_started_is_a_warning(hub, tmp_path, monkeypatch):
    def start(*args, **kwargs):
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(background.subprocess, "Popen", start)
    said = []
    publisher = BackgroundPublisher(tmp_path / "run", HubOptions(push_to_hub=True))
    publisher.open(said.append)
    publisher.push(tmp_path / "run/checkpoints/step-00000001")
    publisher.finish(tmp_path / "run/checkpoints/step-00000001")
    assert "could not be started (Cannot allocate memory)" in said[-1] and publisher.in_use is None


def test_a_push_that_cannot_be_is_refused_before_training(hub, tmp_path, digits_options, monkeypatch, capsys):
    run = options(digits_options, tmp_path / "run", "--push_to_hub", "--hub_private", "--hub_model_id", "user/open")
    hub.add("user/open", {})
    with pytest.raises(SystemExit):
        train_conditional.main(run)
    assert "user/open exists and is public" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit):
        train_conditional.main(run)
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert not (tmp_path / "run/unet").exists()
