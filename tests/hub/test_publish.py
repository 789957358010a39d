"""Models on a Hub of the loopback address: pushed by the unmodified client, loaded where the project is unknown."""

import hashlib
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file

import publish as publishing_command
from cardiff.errors import UserError
from cardiff.files import file_hash
from cardiff.hub import publish as publishing
from cardiff.hub.provenance import write_record
from cardiff.hub.serialization import (
    find_model,
    load_classifier,
    load_pipeline,
    save_classifier,
    save_pipeline,
    weights_file,
)
from cardiff.pipelines import pipeline_class_conditional
from cardiff.sampling.solvers import SOLVERS, make_solver
from cardiff.schedulers import CosineScheduler
from cardiff.training import checkpoint as checkpoints
from tests.support.hub_server import HubServer
from tests.support.pushed import PIPELINE_FILES, push
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import tiny_unet
from tests.support.without_project import run_without_project

NOISE = CosineScheduler().to_stock()
ARGUMENTS = {"class_labels": [{"bee": 0.5, "ant": 0.5}, "cat, black"], "guidance_scale": 2.0}
ARGUMENTS |= {"guidance_interval": (-5.0, 5.0), "guidance_rescale": 0.5, "dynamic_thresholding": 0.9}


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
        ({"repository": "a/b/c"}, "is not a valid repository name"),
        ({"hub_resume_id": "user/model"}, "is the same repository as"),
        ({"variants": "int4"}, "--variants int4 is unknown: choose from fp16, bf16."),
        ({"metrics": "nowhere"}, "--metrics nowhere does not exist"),
        ({"samples": "nowhere.png"}, "--samples nowhere.png is not a file"),
    ],
)
def test_options_that_are_refused(options, sentence, hub, folder):
    with pytest.raises(UserError, match=sentence):
        push(folder, **options)
    assert not hub.repositories


def test_weights_in_half_precision_are_all_there_is(hub, folder, tmp_path):
    push(folder, weights="fp16", output=str(tmp_path / "half"))
    (file,) = (tmp_path / "half").rglob("*.safetensors")
    whole, half = load_file(weights_file(folder)), load_file(file)
    torch.testing.assert_close(half, {name: t.half() for name, t in whole.items()}, rtol=0, atol=0)
    assert load_pipeline(tmp_path / "half").unet.dtype == torch.float32
    assert "parameters in fp16, trained on" in (tmp_path / "half/README.md").read_text()
    # What was measured must be what is written.
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"model": {"weights_sha256": file_hash(weights_file(folder))}}))
    with pytest.raises(UserError, match="other weights than those of .* in fp16: publish to an --output without it"):
        push(folder, weights="fp16", metrics=str(metrics))
    assert not hub.repositories


def test_metrics_must_be_of_these_weights(hub, folder, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"model": {"weights_sha256": "0" * 64}}))
    with pytest.raises(UserError, match="was measured with other weights"):
        push(folder, metrics=str(tmp_path))
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="is not a metrics.json of evaluate.py"):
        push(folder, metrics=str(tmp_path / "metrics.json"))


def test_optimizer_states_never_share_the_models_repository(hub, folder, monkeypatch):
    checkpoint = checkpoints.write_checkpoint(folder / "checkpoints", 1, lambda f: (f / "a.json").write_text("{}"))
    with pytest.raises(UserError, match="--hub_resume_id model is the repository of the model"):
        push(folder, hub_resume_id="model", hub_private=True)
    assert set(hub.repositories["user/model"].files()) == {".gitattributes"}
    push(folder, hub_resume_id="state")
    assert f"{checkpoint.name}/a.json" in hub.repositories["user/state"].files()
    assert hub.repositories["user/state"].private
    assert all(name.startswith((".git", checkpoint.name)) for name in hub.repositories["user/state"].files())


def run_folder(folder, run, step=2):
    """A run whose root has the model, one of its steps, a picture and a checkpoint."""
    shutil.copytree(folder, run)
    data = {"path": "cats", "split": "train", "fit": "crop", "resolution": 8}
    train = {"batch_size": 4, "label_dropout": 0.1, "ema_decay": 0.9}
    sections = {"data": data, "scheduler": {"name": "cosine"}, "train": train}
    record = {"kind": "conditional", "step": step, "images_seen": 8, "seconds": 1.5, "hardware": "CPU"}
    write_record(run, {**record, "processes": 1, "precision": "no", "config": sections})
    (run / "samples").mkdir()
    Image.new("L", (8, 8), 99).save(run / f"samples/step-{step:08d}.png")

    def fill(aside):
        (aside / "training").mkdir()
        (aside / "training/state.json").write_text("{}")

    checkpoints.write_checkpoint(run / "checkpoints", step, fill)
    return run


@pytest.mark.parametrize(
    "name",
    [
        *("run.json", "samples/step-00000002.png", "samples", "reports/step-00000002.json", "best/evaluation.json"),
        *("checkpoints", "checkpoints/step-00000002", "checkpoints/step-00000002/training/state.json"),
        "unet/diffusion_pytorch_model.safetensors",
    ],
)
def test_what_a_link_leads_to_is_not_published(name, hub, folder, tmp_path):
    """Of a folder that came from somebody else it could be anything of whoever publishes it."""
    run, elsewhere = run_folder(folder, tmp_path / "run"), tmp_path / "elsewhere"
    (run / name).parent.mkdir(exist_ok=True)
    if (run / name).exists():
        shutil.move(run / name, elsewhere)
    else:
        elsewhere.write_text("{}")
    (run / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match="is a link that leads out of .* and is not published"):
        push(run, hub_resume_id="user/state")
    assert not hub.repositories


def test_a_run_behind_a_link_is_published(hub, folder, tmp_path):
    (tmp_path / "name").symlink_to(run_folder(folder, tmp_path / "run"))
    push(tmp_path / "name", hub_resume_id="user/state")
    assert "samples.png" in hub.repositories["user/model"].files()
    assert "step-00000002/training/state.json" in hub.repositories["user/state"].files()


def test_a_damaged_checkpoint_is_not_pushed(hub, folder, tmp_path):
    run = run_folder(folder, tmp_path / "run")
    (run / "checkpoints/step-00000002/training/state.json").write_text("[]")
    with pytest.raises(UserError, match="step-00000002 is damaged .training/state.json does not match its checksum"):
        push(run, hub_resume_id="user/state")
    assert not hub.repositories


# --output


def command(folder, output):
    publishing_command.main(["--model", str(folder), "--output", str(output)])


@pytest.mark.parametrize("there", [False, True])
def test_a_preview_is_written_whole_or_not_at_all(there, folder, tmp_path, capsys):
    """On a disk that is full before the weights are written; where a folder was, it is left empty."""
    output = tmp_path / "preview"
    if there:
        output.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for size in (200, 10_000, 50_000):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            with pytest.raises(SystemExit) as ended:
                command(folder, output)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        err = capsys.readouterr().err
        assert ended.value.code == 1 and "File too large: " in err and "Traceback" not in err
        assert sorted(tmp_path.iterdir()) == sorted([folder, *([output] if there else [])])
        assert not there or not list(output.iterdir())
    signal.signal(signal.SIGXFSZ, previous)
    command(folder, output)
    assert load_pipeline(output).id2label and not list(output.glob(".*"))


@pytest.mark.parametrize("there", [False, True])
def test_a_stopped_preview_leaves_nothing(there, folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "preview"
    if there:
        output.mkdir()
    monkeypatch.setattr(publishing, "write_card", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        command(folder, output)
    assert ended.value.code == 143 and "Stopped by SIGTERM." in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".")] == []
    assert output.exists() == there


def test_what_a_killed_preview_left_goes(folder, tmp_path):
    for aside in (tmp_path / ".writing-preview", tmp_path / "full/.writing-model"):
        aside.mkdir(parents=True)
        (aside / "old.json").write_text("{}")
    for name in ("preview", "full"):
        command(folder, tmp_path / name)
        assert not list(tmp_path.rglob(".writing-*")) or name == "preview"
        assert not (tmp_path / name / "old.json").exists()


def test_a_place_for_a_preview_that_cannot_be(hub, folder, tmp_path, monkeypatch):
    """Refused before the model is read."""
    monkeypatch.setattr(publishing, "find_model", lambda *_: pytest.fail("the model was read"))
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    for output, sentence in {
        tmp_path / "file": "--output .*/file cannot be written, since .* is a file",
        tmp_path / "file/deeper": "is a file: choose another folder",
        "": "--output is empty",
        tmp_path / "full": "--output .*/full is not empty: name another folder",
    }.items():
        with pytest.raises(UserError, match=sentence):
            push(folder, output=str(output))


# Checksums


def test_a_published_model_lists_its_files(hub, folder):
    push(folder, variants="fp16")
    files = hub.repositories["user/model"].files()
    listed = json.loads(files["checksums.json"])
    assert set(listed) == set(files) - {".gitattributes", "README.md", "checksums.json"}
    assert all(hashlib.sha256(files[name]).hexdigest() == checksum for name, checksum in listed.items())
    snapshot = find_model("user/model")
    assert load_pipeline(snapshot).id2label == load_pipeline(folder).id2label
    (snapshot / "unet/config.json").unlink()
    (snapshot / "unet/config.json").write_bytes(files["unet/config.json"].replace(b"silu", b"relu"))
    with pytest.raises(UserError, match="unet/config.json does not match its checksum"):
        load_pipeline(snapshot)


def test_a_flipped_bit_is_not_published(hub, folder, tmp_path):
    push(folder, output=str(tmp_path / "preview"))
    weights = tmp_path / "preview/unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="preview is damaged .unet/diffusion_pytorch_model.safetensors does not match"):
        push(tmp_path / "preview")
    assert not hub.repositories


# Round trips


def images_of(pipeline, **arguments):
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    arguments = {"num_inference_steps": 3, "output_type": "np", "generator": generators, **arguments}
    return pipeline(**arguments).images


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
    assert "error: user/model: the token lacks permission (403)" in refused.err and "Traceback" not in refused.err
