"""Models on a Hub of the loopback address: pushed by the unmodified client, loaded where the project is unknown."""

import json
import os
import time
import warnings
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from huggingface_hub import constants
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import train_conditional
from cardiff.config.sections import HubOptions
from cardiff.errors import UserError
from cardiff.hub import client as remote
from cardiff.hub import publish as publishing
from cardiff.hub.options import PublishOptions
from cardiff.hub.provenance import write_record
from cardiff.hub.publish import BackgroundPublisher, publish
from cardiff.hub.serialization import find_model, load_classifier, load_pipeline, save_classifier, save_pipeline
from cardiff.pipelines import pipeline_class_conditional
from cardiff.sampling.solvers import SOLVERS, make_solver
from cardiff.schedulers import CosineScheduler
from cardiff.training import checkpoint as checkpoints
from tests.support.hub_server import HubServer
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import NAMES, tiny_pipeline, tiny_unet
from tests.support.without_project import run_without_project

NOISE = CosineScheduler().to_stock()
ARGUMENTS = {"class_labels": [{"bee": 0.5, "ant": 0.5}, "cat, black"], "guidance_scale": 2.0}
ARGUMENTS |= {"guidance_interval": (-5.0, 5.0), "guidance_rescale": 0.5, "dynamic_thresholding": 0.9}
PIPELINE_FILES = {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
PIPELINE_FILES |= {"scheduler/scheduler_config.json", "README.md", "schedule.png", ".gitattributes"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server, for this process and the ones that it starts; nothing waits between attempts."""
    with HubServer() as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        # The client has read its environment already.
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in [
            ("ENDPOINT", server.url),
            ("HUGGINGFACE_CO_URL_TEMPLATE", template),
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_HUB_CACHE", str(tmp_path / "home/hub")),
        ]:
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
        sleep = time.sleep  # no pause is left out: who waits for a process would be too busy to let it run
        monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
        yield server
        huggingface_hub.utils.close_session()


@pytest.fixture
def folder(tmp_path):
    save_pipeline(tiny_pipeline(), tmp_path / "model")
    return tmp_path / "model"


def images_of(pipeline, **arguments):
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    arguments = {"num_inference_steps": 3, "output_type": "np", "generator": generators, **arguments}
    return pipeline(**arguments).images


def push(folder, repository="user/model", **more):
    return publish(PublishOptions(model=str(folder), hub_model_id=repository, **more))


# What arrives


def test_what_is_uploaded(hub, folder, tmp_path):
    """The model, the card and its pictures, in one commit, whatever else lies in the folder."""
    (folder / "training").mkdir()
    for name in (
        "training/optimizer.safetensors",
        "secret.txt",
        "unet/token",
        "events.out.tfevents.1.some-host",
        "a.py",
    ):
        (folder / name).write_text("hf_writer")
    (folder / "pipeline_class_conditional.py").write_text("raise SystemExit('another file')")
    (folder / "unet" / "link.json").symlink_to("/etc/hostname")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_name_or_path": "/home/someone/runs"}))
    assert push(folder) == f"Published {hub.url}/user/model"
    files = hub.repositories["user/model"].files()
    assert set(files) == PIPELINE_FILES | {"pipeline_class_conditional.py"}
    assert len(hub.repositories["user/model"].branches["main"]) == 2  # the empty one, and ours
    everything = b"".join(files.values())
    for secret in (b"hf_writer", b"/home/someone", str(tmp_path).encode()):
        assert secret not in everything
    assert b"another file" not in everything


def test_what_a_run_records_has_no_paths(hub, folder, tmp_path):
    config = {
        "data": {
            "path": "parquet",
            "data_files": "/home/someone/cats.parquet",
            "cache_dir": "/scratch",
            "split": "train",
        },
        "scheduler": {"name": "/home/someone/mine.py:straight", "last": 0.1},
        "train": {"batch_size": 8, "ema_decay": 0.9, "trackers": ["wandb"], "network": "https://me:pw@host/x?token=1"},
    }
    config["data"] |= {"fit": "crop", "resolution": 8}
    run = {"kind": "conditional", "step": 3, "images_seen": 24, "seconds": 1.5, "hardware": "CPU", "processes": 1}
    write_record(folder, {**run, "precision": "no", "config": config})
    picture = PngInfo()
    picture.add_text("cardiff", "/home/someone/runs")
    Image.new("L", (8, 8), 99).save(tmp_path / "samples.png", pnginfo=picture)
    push(folder, samples=str(tmp_path / "samples.png"))
    files = hub.repositories["user/model"].files()
    assert {"run.json", "samples.png"} <= set(files)
    assert not [name for name, data in files.items() if b"someone" in data or b"/scratch" in data or b"pw@" in data]
    kept = json.loads(files["run.json"])["config"]
    assert kept["scheduler"] == {"name": "mine.py:straight", "last": 0.1}
    assert kept["data"]["data_files"] == "cats.parquet" and kept["train"]["network"] == "https://host/x"


def test_a_private_repository_is_private_from_its_first_moment(hub, folder):
    push(folder, hub_private=True)
    created = next(json.loads(r.body) for r in hub.requests if r.path == "/api/repos/create")
    assert created["visibility"] == "private" and hub.repositories["user/model"].private
    hub.clear()
    push(folder, hub_private=True)  # again
    hub.add("user/open", {})
    with pytest.raises(UserError, match="user/open exists and is public: make it private"):
        push(folder, "user/open", hub_private=True)
    assert hub.repositories["user/open"].files() == {}


def test_a_branch_and_what_an_earlier_push_left(hub, folder):
    push(folder, hub_revision="small", variants="fp16,bf16")
    repository = hub.repositories["user/model"]
    repository.commit("small", "by hand", {**repository.files("small"), "figures/my.png": b"1", "tool.py": b"2"})
    halves = {f"unet/diffusion_pytorch_model.{v}.safetensors" for v in ("fp16", "bf16")}
    assert halves <= set(repository.files("small")) and set(repository.files()) == {".gitattributes"}
    assert b'revision="small"' in repository.files("small")["README.md"]
    push(folder, hub_revision="small")  # of which the variants would be other weights
    assert not halves & set(repository.files("small"))
    assert {"figures/my.png", "tool.py"} <= set(repository.files("small"))


def test_a_preview_uploads_nothing(hub, folder, tmp_path):
    assert "nothing was uploaded" in push(folder, output=str(tmp_path / "preview"))
    files = {p.relative_to(tmp_path / "preview").as_posix() for p in (tmp_path / "preview").rglob("*") if p.is_file()}
    assert files == PIPELINE_FILES - {".gitattributes"} | {"pipeline_class_conditional.py"}
    assert not hub.requests
    with pytest.raises(UserError, match="is not empty"):
        push(folder, output=str(tmp_path / "preview"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"repository": "a/b/c"}, "cannot be a repository of the Hub"),
        ({"hub_resume_id": "user/model"}, "must be another repository"),
        ({"variants": "int4"}, "--variants has no 'int4': give fp16 or bf16."),
        ({"metrics": "nowhere"}, "--metrics nowhere does not exist"),
        ({"samples": "nowhere.png"}, "--samples nowhere.png is no file"),
    ],
)
def test_options_that_are_refused(options, sentence, hub, folder):
    with pytest.raises(UserError, match=sentence):
        push(folder, **options)
    assert not hub.repositories


def test_metrics_must_be_of_these_weights(hub, folder, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"model": {"weights_sha256": "0" * 64}}))
    with pytest.raises(UserError, match="is of other weights than"):
        push(folder, metrics=str(tmp_path))
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="is not a metrics.json of evaluate.py"):
        push(folder, metrics=str(tmp_path / "metrics.json"))


def test_without_a_token_nothing_is_asked(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    with pytest.raises(UserError, match="no token for the Hub: run `hf auth login`"):
        push(folder)
    assert not hub.requests


# A Hub that fails

COMMIT = "POST /api/models/user/model/commit"
PASSING = {
    "busy": (COMMIT, 500),
    "rate limit": (COMMIT, 429),
    "somebody else's commit": (COMMIT, 412),
    "conflict": (COMMIT, 409),
    "lost answer": ("POST /api/models/user/model/preupload", 503),
    "broken upload": ("PUT /lfs/", "cut"),
    "broken commit": (COMMIT, "cut"),
    "silence": (COMMIT, "hang"),
    "busy at the start": ("POST /api/repos/create", 500),
}


@pytest.mark.parametrize(("what", "fault"), PASSING.values(), ids=PASSING)
def test_a_passing_fault_is_overcome(what, fault, hub, folder, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", 0.5)
    hub.fail(what, fault, times=2)
    push(folder)
    assert PIPELINE_FILES <= set(hub.repositories["user/model"].files())
    assert hub.faults[0].left == 0


LASTING = {
    "token refused": ("POST", 401, "does not accept the token .401.: log in anew with `hf auth login`"),
    "no right": (COMMIT, 403, "may not do this .403.: use one with write access"),
    "no right to create": ("repos/create|GET /api/models", 403, "may not do this .403."),
    "out of order": (COMMIT, 500, "answers with an error .500."),
    "rate limit": ("preupload", 429, "is rate limiting .429."),
    "conflict": (COMMIT, 409, "somebody else is changing it .409."),
    "cut": ("PUT /lfs/", "cut", "cannot be reached, or the connection broke"),
    "silence": (COMMIT, "hang", "does not answer in time"),
}


@pytest.mark.parametrize(("what", "fault", "sentence"), LASTING.values(), ids=LASTING)
def test_a_lasting_fault_is_one_sentence(what, fault, sentence, hub, folder, monkeypatch, caplog):
    monkeypatch.setattr(remote, "TIMEOUT", 0.3)
    hub.add("user/model", {"old": b"1"})
    hub.fail(what, fault, times=float("inf"))
    with pytest.raises(UserError, match=sentence) as error:
        push(folder)
    assert "\n" not in str(error.value) and "hf_writer" not in str(error.value) + caplog.text
    assert hub.repositories["user/model"].files() == {"old": b"1"}  # a commit is whole or not at all


def test_a_token_that_may_only_read_and_one_that_is_unknown(hub, folder, monkeypatch):
    for token, sentence in (("hf_reader", "403"), ("hf_stranger", "401")):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserError, match=sentence) as error:
            push(folder)
        assert token not in str(error.value)


@pytest.mark.parametrize(("fault", "sentence"), [("cut", "the connection broke"), (500, ".500."), (403, ".403.")])
def test_a_download_that_fails_is_one_sentence(fault, sentence, hub, folder):
    push(folder)
    hub.fail("GET /user/model/resolve|GET /api/models", fault, times=float("inf"))
    with pytest.raises(UserError, match=sentence) as error:
        find_model("user/model")
    assert "\n" not in str(error.value)


def test_a_private_model_needs_its_token(hub, folder, monkeypatch):
    push(folder, hub_private=True)
    assert load_pipeline(find_model("user/model")).id2label == NAMES
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "empty"))
    with pytest.raises(UserError, match="user/model is neither a folder nor a Hub repository that can be read"):
        find_model("user/model")


def test_a_hostile_repository_achieves_nothing(hub, folder, tmp_path, monkeypatch):
    """Names that climb out, pickles, an index of them and source files are not even fetched."""
    marker = tmp_path / "executed"
    good = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    bomb = f"open({str(marker)!r}, 'w')".encode()
    hostile = dict.fromkeys(("../../../outside.json", "unet/../../up.json", "unet/x.safetensors", "a.py"), bomb)
    hostile |= {"unet/diffusion_pytorch_model.safetensors.index.json": b"{}", "unet/model.bin": bomb}
    hub.add("user/evil", {**good, **hostile, "pipeline_class_conditional.py": bomb})
    snapshot = find_model("user/evil")
    assert load_pipeline(snapshot).id2label == NAMES
    fetched = {p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()}
    assert fetched == {"model_index.json", "unet/config.json", "scheduler/scheduler_config.json"} | {
        "unet/diffusion_pytorch_model.safetensors"
    }
    sums = json.dumps({"../../outside.json": "0", "training/state.json": "0"}).encode()
    hub.add("user/state", {"step-00000001/checksums.json": sums, "step-00000001/../outside.json": bomb})
    with pytest.raises(
        ValueError, match="--resume_from user/state: step-00000001 is damaged .*which no checkpoint has"
    ):
        remote.download_checkpoint("user/state")
    assert not [p for p in tmp_path.rglob("*") if p.name in ("outside.json", "up.json")] and not marker.exists()


def checkpoint_of(folder, step):
    """A checkpoint of one small file."""

    def fill(aside):
        (aside / "training").mkdir()
        (aside / "training" / "state.json").write_text(str(step))

    return checkpoints.write_checkpoint(folder, step, fill)


def test_a_checkpoint_replaces_those_before_it_and_itself(hub, tmp_path):
    hub.add("user/state", {"README.md": b"mine"})
    for step in (1, 2, 2):
        checkpoint = checkpoint_of(tmp_path, step)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a commit that removes what it adds
            remote.push_checkpoint(checkpoint, "user/state")
    there = hub.repositories["user/state"].files()
    assert set(there) == {"README.md", "step-00000002/checksums.json", "step-00000002/training/state.json"}


def test_of_several_checkpoints_the_newest_is_taken(hub, tmp_path):
    files = {}
    for step in (9, 10, 2):
        checkpoint = checkpoint_of(tmp_path, step)
        files |= {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in checkpoint.rglob("*") if p.is_file()}
    hub.add("user/state", files)
    found = remote.download_checkpoint("user/state")
    assert found.name == "step-00000010" and (found / "training/state.json").read_text() == "10"


def test_a_revision_is_downloaded(hub, folder):
    push(folder, hub_revision="small")
    main = hub.repositories["user/model"].files()
    assert "model_index.json" not in main  # all is on the branch
    assert load_pipeline(find_model("user/model", "small")).id2label == NAMES
    with pytest.raises(UserError, match="it has no such revision"):
        find_model("user/model", "large")


# Round trips


def test_loaded_elsewhere(hub, folder, tmp_path):
    """Every kind of model, from the server and from a folder, with and without trust, bit for bit."""
    save_pipeline(DDPMPipeline(tiny_unet(None), NOISE), tmp_path / "unconditional")
    save_classifier(tiny_classifier(), NOISE, tmp_path / "classifier")
    push(folder, variants="fp16,bf16", hub_license="mit")
    push(tmp_path / "unconditional", "user/unconditional", hub_private=True)
    push(tmp_path / "classifier", "user/classifier")
    cards = {name: repository.files()["README.md"].decode() for name, repository in hub.repositories.items()}
    blocks = {name: card.split("```python\n")[1].split("```")[0] for name, card in cards.items()}
    assert all(len(block.strip().splitlines()) <= 10 for block in blocks.values())
    code = f"""
import json, logging, numpy, os, torch
from diffusers import AutoModel, DDPMScheduler, DiffusionPipeline, UNet2DModel
blocks = json.loads({json.dumps(json.dumps(blocks))})

def images(pipeline, **more):
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    return pipeline(generator=generators, num_inference_steps=3, output_type="np", **more).images

for where in ("user/model", "model"):
    pipeline = DiffusionPipeline.from_pretrained(where, trust_remote_code=True)
    numpy.save("conditional-" + where.replace("/", "-"), images(pipeline, **{ARGUMENTS!r}))
    try:
        DiffusionPipeline.from_pretrained(where)
    except ValueError as error:
        assert "trust_remote_code" in str(error)
    else:
        raise SystemExit("a custom pipeline without trust")
    unet = UNet2DModel.from_pretrained(where, subfolder="unet")
    torch.testing.assert_close(unet.state_dict(), pipeline.unet.state_dict(), rtol=0, atol=0)
    assert type(pipeline.scheduler) is DDPMScheduler
    assert DDPMScheduler.from_pretrained(where, subfolder="scheduler").betas.equal(pipeline.scheduler.betas)
for variant, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
    half = DiffusionPipeline.from_pretrained("user/model", variant=variant, torch_dtype=dtype, trust_remote_code=True)
    assert half.unet.dtype == dtype
    whole = DiffusionPipeline.from_pretrained("user/model", torch_dtype=dtype, trust_remote_code=True)
    torch.testing.assert_close(half.unet.state_dict(), whole.unet.state_dict(), rtol=0, atol=0)
    assert numpy.isfinite(images(half, class_labels=[0, 1])).all()
for where in ("user/unconditional", "unconditional"):
    pipeline = DiffusionPipeline.from_pretrained(where)
    assert type(pipeline).__module__.startswith("diffusers.")
    numpy.save(where.replace("/", "-"), images(pipeline, batch_size=2))
for where in ("user/classifier", "classifier"):
    classifier = AutoModel.from_pretrained(where, subfolder="classifier", trust_remote_code=True)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    numpy.save(where.replace("/", "-"), classifier(x, torch.tensor([0, 400, 900, 999])).detach().numpy())
for name in blocks:
    exec(blocks[name], {{}})
assert os.path.getsize("sample.png") > 50
"""
    run_without_project(code, tmp_path)
    ours = images_of(load_pipeline(find_model("user/model")), **ARGUMENTS)
    for name in ("conditional-user-model", "conditional-model"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), ours)
    stock = images_of(DDPMPipeline.from_pretrained(find_model("user/unconditional")), batch_size=2)
    for name in ("user-unconditional", "unconditional"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), stock)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    classifier, _ = load_classifier(find_model("user/classifier"))
    logits = classifier(x, torch.tensor([0, 400, 900, 999])).detach().numpy()
    for name in ("user-classifier", "classifier"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), logits)


def test_diffusers_own_push(hub, folder):
    """What it uploads, without this project, names our class and has its file, so that it loads from there."""
    code = "from diffusers import DiffusionPipeline\n"
    code += f"pipeline = DiffusionPipeline.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
    run_without_project(code + 'pipeline.push_to_hub("user/own")', folder.parent)
    files = hub.repositories["user/own"].files()
    assert json.loads(files["model_index.json"])["_class_name"][0] == "pipeline_class_conditional"
    assert files["pipeline_class_conditional.py"] == Path(pipeline_class_conditional.__file__).read_bytes()
    expected = images_of(load_pipeline(folder), **ARGUMENTS)
    np.testing.assert_array_equal(images_of(load_pipeline(find_model("user/own")), **ARGUMENTS), expected)


def test_load_save_push_again(hub, folder, tmp_path):
    """Model, scheduler and card are the same after a second journey, and every solver draws the same from both."""
    push(folder)
    push("user/model", "user/again")
    first, again = (hub.repositories[name].files() for name in ("user/model", "user/again"))
    assert {name: first[name] for name in first if name != "README.md"} == {
        name: again[name] for name in again if name != "README.md"
    }
    here, there = load_pipeline(folder), load_pipeline(find_model("user/again"))
    for name in SOLVERS:
        both = []
        for pipeline in (here, there):
            scheduler = pipeline.scheduler
            pipeline.scheduler = make_solver(scheduler, name)
            both.append(images_of(pipeline, class_labels=[0, 1], num_inference_steps=4))
            pipeline.scheduler = scheduler
        np.testing.assert_array_equal(*both, err_msg=name)


# While training


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
    assert "user/state cannot be read: the Hub answers with an error (500). Going on" in capsys.readouterr().out
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


@pytest.mark.slow
def test_the_command_line_of_publish(tmp_path, launch):
    """As a user runs it: a preview, a push, and a refusal in one sentence."""
    save_pipeline(DDPMPipeline(tiny_unet(None), NOISE), tmp_path / "model")
    out = launch("publish.py", "--model", tmp_path / "model", "--output", tmp_path / "preview").out
    assert "nothing was uploaded" in out and (tmp_path / "preview/README.md").is_file()
    with HubServer() as server:
        environment = server.environment(tmp_path / "home")
        push = ("publish.py", "--model", tmp_path / "model", "--hub_model_id", "user/model", "--hub_private")
        assert f"Published {server.url}/user/model" in launch(*push, env=environment).out
        assert server.repositories["user/model"].private
        server.fail("POST", 403, times=float("inf"))
        refused = launch(*push, env=environment, check=False)
    assert refused.returncode == 1
    assert "error: user/model: the token may not do this (403)" in refused.err and "Traceback" not in refused.err


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
    """What is being uploaded stays where it is, what waits is replaced, a complaint is made once."""
    started, said, priorities = [], [], []

    def start(*args, **kwargs):
        started.append(Upload(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(publishing.subprocess, "Popen", start)
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
    assert priorities == [(os.PRIO_PROCESS, 7, publishing.NICENESS)] * 3
    assert len([line for line in said if "user/run: no." in line]) == 1
    publisher.finish(checkpoints.checkpoint_dir(root, 6))
    assert started[-1].options["model"].endswith("6") and said[-1] == "Published user/run."
    publisher.push(checkpoints.checkpoint_dir(root, 7))
    publisher.finish(None)
    assert started[-1].returncode == -9 and "publish with: python publish.py" in said[-1]


def test_a_process_that_cannot_be_started_is_a_warning(hub, tmp_path, monkeypatch):
    def start(*args, **kwargs):
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(publishing.subprocess, "Popen", start)
    said = []
    publisher = BackgroundPublisher(tmp_path / "run", HubOptions(push_to_hub=True))
    publisher.open(said.append)
    publisher.push(tmp_path / "run/checkpoints/step-00000001")
    publisher.finish(tmp_path / "run/checkpoints/step-00000001")
    assert "could not be started (Cannot allocate memory)" in said[-1] and publisher.in_use is None


def test_optimizer_states_never_share_the_models_repository(hub, folder, monkeypatch):
    checkpoint = checkpoints.write_checkpoint(folder / "checkpoints", 1, lambda f: (f / "a.json").write_text("{}"))
    with pytest.raises(UserError, match="--hub_resume_id model is the repository of the model"):
        push(folder, hub_resume_id="model", hub_private=True)
    assert set(hub.repositories["user/model"].files()) == {".gitattributes"}
    push(folder, hub_resume_id="state")
    assert f"{checkpoint.name}/a.json" in hub.repositories["user/state"].files()
    assert hub.repositories["user/state"].private
    assert all(name.startswith((".git", checkpoint.name)) for name in hub.repositories["user/state"].files())


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
