"""Uploads beside a training run, to a Hub of the loopback address."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import pytest
from huggingface_hub import constants

import train_conditional
from cardiff.config.sections import HubOptions
from cardiff.errors import UserError
from cardiff.hub import background, client
from cardiff.hub import publish as publishing
from cardiff.hub.background import BackgroundPublisher
from cardiff.hub.options import PublishOptions
from cardiff.hub.provenance import write_record
from cardiff.hub.serialization import load_pipeline
from cardiff.interrupt import Stopped
from cardiff.training import checkpoint as checkpoints
from tests.conftest import ROOT
from tests.support.hub_server import HubServer
from tests.support.pushed import PIPELINE_FILES

pause = Event()
"""Waits as long as it is told, where the fixture `hub` cuts sleep short."""


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
    assert "Copied the checkpoint of step 2 from user/state." in capsys.readouterr().out

    # Where it has checkpoints of its own, the same command needs no Hub.
    hub.fail("GET /api/models", 500, times=float("inf"))
    again = options(digits_options, tmp_path / "elsewhere", "--resume_from", "user/state", *longer)
    assert train_conditional.main(again)
    assert "user/state cannot be read: the Hub returned an error (500). Resuming" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train_conditional.main(options(digits_options, tmp_path / "third", "--resume_from", "user/state"))


class Threaded:
    """An upload in a thread of this process, which needs not import anything."""

    def __init__(self, command, stdout, **_):
        self.given, self.log, self.returncode = json.loads(command[-1]), stdout, None
        self.thread = Thread(target=self.upload, daemon=True)
        self.thread.start()
        self.pid = self.thread.native_id

    def upload(self):
        try:
            publishing.publish(PublishOptions(**self.given["options"]), Path(self.given["aside"]))
            self.returncode = 0
        except UserError as error:
            self.log.write(f"error: {error}\n")
            self.returncode = 1

    def poll(self):
        return self.returncode

    def wait(self, timeout):
        self.thread.join(timeout)


@pytest.fixture
def threaded(monkeypatch):
    """Uploads are threads, which is quicker; test_a_run_is_published_and_resumed_elsewhere starts a process."""
    new = subprocess.Popen

    def start(command, **options):
        return Threaded(command, **options) if "cardiff.hub.background" in command else new(command, **options)

    monkeypatch.setattr(background.subprocess, "Popen", start)


@pytest.mark.usefixtures("threaded")
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
        self.options, self.log, self.returncode = json.loads(command[-1])["options"], stdout, None

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


def run_of_step(folder, run, step):
    """A run's folder whose root has the model of a step."""
    shutil.copytree(folder, run, dirs_exist_ok=True)
    data = {"path": "cats", "split": "train", "fit": "crop", "resolution": 8}
    sections = {"data": data, "scheduler": {"name": "cosine"}, "train": {"batch_size": 4, "ema_decay": 0.9}}
    sections["train"]["label_dropout"] = 0.1
    record = {"kind": "conditional", "step": step, "images_seen": 8, "seconds": 1.5, "hardware": "CPU"}
    write_record(run, {**record, "processes": 1, "precision": "no", "config": sections})
    checkpoints.write_checkpoint(run / "checkpoints", step, lambda aside: (aside / "a.json").write_text("{}"))
    return run


def meanwhile(hub, monkeypatch, what):
    """Something that another process does while this one prepares its push."""
    prepare = publishing.prepare

    def slowly(*arguments):
        monkeypatch.setattr(publishing, "prepare", prepare)
        what()
        return prepare(*arguments)

    monkeypatch.setattr(publishing, "prepare", slowly)


def steps_on(hub):
    model, state = (hub.repositories[name].files() for name in ("user/run", "user/state"))
    return json.loads(model["run.json"])["step"], {name.split("/")[0] for name in state} - {".gitattributes"}


def push(run, aside=None, **more):
    options = PublishOptions(model=str(run), hub_model_id="user/run", hub_resume_id="user/state", **more)
    return publishing.publish(options, aside)


def test_a_later_step_that_came_in_between_is_not_overwritten(hub, folder, tmp_path, monkeypatch):
    """As of an upload whose run was killed, while the next one pushes."""
    first, second = run_of_step(folder, tmp_path / "a", 10), run_of_step(folder, tmp_path / "b", 20)
    hub.add("user/run", {})  # as the start of the run has made it
    meanwhile(hub, monkeypatch, lambda: push(second))
    with pytest.raises(UserError, match="user/run: step 20 was pushed meanwhile, later than step 10 of this upload"):
        push(first, tmp_path / ".writing-upload")
    assert steps_on(hub) == (20, {"step-00000020"}) and not (tmp_path / ".writing-upload").exists()


def test_nor_is_a_later_checkpoint(hub, folder, tmp_path, monkeypatch):
    first, second = run_of_step(folder, tmp_path / "a", 10), run_of_step(folder, tmp_path / "b", 20)
    push(first)
    later = checkpoints.newest_in(second)
    meanwhile(hub, monkeypatch, lambda: client.push_checkpoint(later, "user/state", client.Order(None, 20)))
    with pytest.raises(UserError, match="user/state: step 20 was pushed meanwhile, later than step 10"):
        push(first, tmp_path / ".writing-upload")
    assert steps_on(hub) == (10, {"step-00000020"})


@pytest.mark.parametrize("step", [20, 30])
def test_an_earlier_step_is_overwritten(step, hub, folder, tmp_path, monkeypatch):
    """By a background upload; also one of the same step, such as its own whose answer was lost."""
    first, second = run_of_step(folder, tmp_path / "a", step), run_of_step(folder, tmp_path / "b", 20)
    hub.add("user/run", {})
    meanwhile(hub, monkeypatch, lambda: push(second))
    push(first, tmp_path / ".writing-upload")
    assert steps_on(hub) == (step, {f"step-{step:08d}"})


def test_a_user_s_own_push_counts_whatever_came_in_between(hub, folder, tmp_path, monkeypatch):
    first, second = run_of_step(folder, tmp_path / "a", 10), run_of_step(folder, tmp_path / "b", 20)
    hub.add("user/run", {})
    meanwhile(hub, monkeypatch, lambda: push(second))
    push(first)
    assert steps_on(hub) == (10, {"step-00000010"})


def test_a_later_step_of_an_earlier_run_is_replaced(hub, folder, tmp_path):
    """What was there before the upload began is of a run that the user has started again."""
    push(run_of_step(folder, tmp_path / "b", 20))
    push(run_of_step(folder, tmp_path / "a", 10), tmp_path / ".writing-upload")
    assert steps_on(hub) == (10, {"step-00000010"})


RUN = """
import sys, time
from pathlib import Path
from cardiff.config.sections import HubOptions
from cardiff.hub.background import BackgroundPublisher
run = Path(sys.argv[1])
publisher = BackgroundPublisher(run, HubOptions(push_to_hub=True, hub_model_id="user/run"))
publisher.open(print)
publisher.push(run)
print("upload", publisher.process.pid, flush=True)
time.sleep(600)
"""


def test_an_upload_ends_with_its_run_however_that_ends(hub, folder, tmp_path):
    """Killed while the Hub keeps the upload waiting."""
    run = run_of_step(folder, tmp_path / "run", 10)
    hub.fail("POST /api/models/user/run/(preupload|commit)", "hang", times=float("inf"))
    process = subprocess.Popen([sys.executable, "-c", RUN, str(run)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    upload = next(int(line.split()[1]) for line in process.stdout if line.startswith("upload"))
    until(lambda: any("preupload" in request.path for request in hub.requests))
    assert (run / ".writing-upload/README.md").is_file()
    process.kill()
    process.wait()
    until(lambda: not alive(upload) and not (run / ".writing-upload").exists(), 10)
    process.stdout.close()


def alive(pid):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(done, seconds=120):
    """Wait for something."""
    end = monotonic() + seconds
    while not done():
        assert monotonic() < end, "it did not happen"
        pause.wait(0.05)


def test_what_is_published_already_is_not_pushed_again(hub, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(background.subprocess, "Popen", lambda *a, **k: started.append(Upload(*a, **k)) or started[-1])
    monkeypatch.setattr(os, "setpriority", lambda *given: None)
    publisher = BackgroundPublisher(tmp_path / "run", HubOptions(push_to_hub=True))
    checkpoint = tmp_path / "run/checkpoints/step-00000001"
    publisher.push(checkpoint)
    publisher.push(checkpoint)  # the next one could not be written, so that this is still the last
    started[0].returncode = 0
    publisher.push(checkpoint)
    publisher.finish(checkpoint)
    assert len(started) == 1 and publisher.waiting is None


def test_a_stopped_run_leaves_no_upload(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(background.subprocess, "Popen", Upload)
    monkeypatch.setattr(os, "setpriority", lambda *given: None)
    publisher = BackgroundPublisher(tmp_path / "run", HubOptions(push_to_hub=True))
    publisher.push(tmp_path / "run/checkpoints/step-00000001")
    (tmp_path / "run/.writing-upload").mkdir(parents=True)
    publisher.finish(None)
    assert not (tmp_path / "run/.writing-upload").exists() and publisher.process is None


def test_a_signal_while_a_finished_run_waits_ends_the_upload_alone(hub, tmp_path, monkeypatch):
    class Endless(Upload):
        def wait(self, timeout=None):
            if self.returncode is None:
                raise Stopped(15)

    monkeypatch.setattr(background.subprocess, "Popen", Endless)
    monkeypatch.setattr(os, "setpriority", lambda *given: None)
    said = []
    publisher = BackgroundPublisher(tmp_path / "run", HubOptions(push_to_hub=True))
    publisher.open(said.append)
    publisher.finish(tmp_path / "run/checkpoints/step-00000001")
    assert publisher.process is None and "not pushed to the Hub: the upload was stopped" in said[-1]


@pytest.mark.usefixtures("threaded")
def test_a_first_checkpoint_that_fails_leaves_nothing_to_push(hub, tmp_path, digits_options, monkeypatch, capsys):
    """The next one is pushed."""
    write = checkpoints.write_checkpoint
    failed = []

    def full_at_first(*arguments):
        if not failed:
            failed.append(True)
            raise OSError(errno.ENOSPC, "No space left on device", "somewhere")
        return write(*arguments)

    monkeypatch.setattr(checkpoints, "write_checkpoint", full_at_first)
    more = ("--push_to_hub", "--hub_model_id", "user/run", "--train.checkpoint_every", "1")
    assert train_conditional.main(options(digits_options, tmp_path / "run", *more))
    out = capsys.readouterr().out
    assert failed and "The checkpoint of step 1 could not be written" in out and "Published user/run." in out
    assert json.loads(hub.repositories["user/run"].files()["run.json"])["step"] == 2
    commits = len(hub.repositories["user/run"].branches["main"])
    assert train_conditional.main(options(digits_options, tmp_path / "run", *more))  # again: nothing is new
    assert len(hub.repositories["user/run"].branches["main"]) == commits


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
