"""The real scripts, launched as a user launches them: one process and two, killed and resumed, sampled and loaded."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import train_conditional
from cardiff.files import ASIDE, file_hash
from cardiff.hub.serialization import load_pipeline
from cardiff.integrity import find_damage
from cardiff.training.checkpoint import list_checkpoints

# Three accumulation parts, a batch that does not divide the 1,797 images, and an epoch that ends inside the run.
OPTIONS = ["--train.max_steps", "42", "--train.batch_size", "48", "--train.gradient_accumulation_steps", "3"]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict:
    """Hashes of everything that training carries forward."""
    last = list_checkpoints(folder / "checkpoints")[-1]
    files = ["unet/diffusion_pytorch_model.safetensors", "training/unet.safetensors", "training/optimizer.safetensors"]
    return {name: file_hash(last / name) for name in files}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("launch")


@pytest.fixture
def whole_run(shared, launch, digits_options):
    """An uninterrupted run in one process, made once."""
    folder = shared / "whole"
    if not folder.exists():
        options = [*OPTIONS, "--train.sample_every", 21, "--train.checkpoint_every", 20, "--train.keep_checkpoints", 2]
        launch("train_conditional.py", *digits_options, *options, "--output_dir", folder)
    return folder


def test_a_run_leaves_what_it_promises(whole_run):
    files = {path.relative_to(whole_run).as_posix() for path in whole_run.rglob("*") if path.is_file()}
    assert {"model_index.json", "config.yaml", "unet/config.json", "pipeline_class_conditional.py"} <= files
    assert {"samples/step-00000021.png", "samples/step-00000042.png", "logs/metrics.jsonl"} <= files
    assert [p.name for p in list_checkpoints(whole_run / "checkpoints")] == ["step-00000040", "step-00000042"]
    assert len(losses(whole_run)) == 42
    assert not [name for name in files if name.endswith((".bin", ".pkl", ".pt", ".ckpt")) or ASIDE in name]
    assert file_hash(whole_run / "unet/diffusion_pytorch_model.safetensors") == next(iter(weights(whole_run).values()))
    assert load_pipeline(whole_run).id2label[7] == "seven"


def test_two_processes_follow_one(whole_run, shared, launch, digits_options):
    folder = shared / "two"
    launch("train_conditional.py", *digits_options, *OPTIONS, "--output_dir", folder, processes=2, launcher=True)
    np.testing.assert_allclose(losses(folder), losses(whole_run), rtol=2e-5)
    one, two = (load_file(run / "unet/diffusion_pytorch_model.safetensors") for run in (whole_run, folder))
    # Adam divides by the root of tiny second moments, which blows up differences in the last bit.
    torch.testing.assert_close(two, one, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_a_sharded_model_trains_saves_and_resumes_as_a_whole_one(whole_run, shared, launch, digits_options):
    folder = shared / "sharded"
    options = [*digits_options, *OPTIONS, "--output_dir", folder, "--train.sample_every", 20]
    options[options.index("--train.max_steps") + 1] = "20"
    options += ["--train.lr_schedule", "constant_with_warmup"]  # the same with another max_steps
    options += ["--train.optimizer", "muon"]  # which needs whole matrices, and AdamW for the rest
    options += ["--train.ema_widths", "[0.05,0.1]"]
    sharded = {"accelerate_config": "fsdp.yaml", "processes": 2}
    launch("tests/support/sharded_training.py", "train_conditional", *options, **sharded)
    assert (folder / "samples/step-00000020.png").exists()
    # Goes on in one process without sharding, and sharded again; both end where a run that was never sharded does.
    options[options.index("--train.max_steps") + 1] = "30"
    launch("train_conditional.py", *options)
    options[options.index("--train.max_steps") + 1] = "42"
    launch("tests/support/sharded_training.py", "train_conditional", *options, **sharded)
    plain = [*options, "--output_dir", shared / "plain"]
    launch("train_conditional.py", *plain)
    np.testing.assert_allclose(losses(folder), losses(shared / "plain"), rtol=1e-4)
    one, two = (load_file(run / "unet/diffusion_pytorch_model.safetensors") for run in (shared / "plain", folder))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-3)
    one, two = (load_file(run / "averages/step-00000042.safetensors") for run in (shared / "plain", folder))
    assert len(one) == 2 * len(load_file(folder / "unet/diffusion_pytorch_model.safetensors"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_two_processes_train_a_classifier_as_one(shared, launch, classifier_options):
    """Their reports too, of which each makes a part; and so do two that share the weights."""
    options = [*classifier_options, "--train.max_steps", 12, "--train.batch_size", 48, "--train.report_every", 6]
    scripts = {
        "one": "train_classifier.py",
        "two": "train_classifier.py",
        "sharded": "tests/support/sharded_training.py",
    }
    logs, reports = {}, {}
    for name, script in scripts.items():
        folder = shared / f"classifier_{name}"
        first = ["train_classifier"] if name == "sharded" else []
        config = "fsdp.yaml" if name == "sharded" else None
        processes = 1 if name == "one" else 2
        result = launch(
            script, *first, *options, "--output_dir", folder, processes=processes, accelerate_config=config
        )
        assert "accuracy on 180 clean validation images is" in result.out
        lines = [json.loads(line) for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]
        logs[name] = [line["loss"] for line in lines if "loss" in line]
        reports[name] = [json.loads(path.read_text()) for path in sorted(folder.glob("reports/*.json"))]
    for name in ("two", "sharded"):
        np.testing.assert_allclose(logs[name], logs["one"], rtol=1e-4)
        for here, there in zip(reports[name], reports["one"], strict=True):
            for level, expected in zip([here["clean"], *here["levels"]], [there["clean"], *there["levels"]]):
                assert level["images"] == expected["images"] == 180
                assert level["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=1e-3)
                assert level["accuracy"] == pytest.approx(expected["accuracy"], abs=0.01)


def test_killed_and_resumed_is_bit_identical(whole_run, shared, launch, digits_options):
    folder = shared / "killed"
    options = [*digits_options, *OPTIONS, "--output_dir", folder, "--train.checkpoint_every", 9]
    process = launch("train_conditional.py", *options, wait=False)
    wait_for(lambda: (folder / "checkpoints/step-00000018").exists(), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "checkpoints/step-00000042").exists()
    resumed = launch("train_conditional.py", *options)
    assert "Resuming from" in resumed.out
    assert weights(folder) == weights(whole_run)
    assert losses(folder) == losses(whole_run)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_exits_cleanly(number, whole_run, shared, launch, digits_options):
    folder = shared / number.name
    options = [*digits_options, *OPTIONS, "--output_dir", folder, "--data.num_workers", 1]
    process = launch("train_conditional.py", *options, wait=False)
    wait_for(lambda: (folder / "logs/metrics.jsonl").exists() and len(losses(folder)) >= 5, process)
    os.killpg(process.pid, number)  # to the worker process as well, as a terminal and a batch system do
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err[-2000:]
    assert "run the same command again to resume" in out and "Traceback" not in err
    stopped_at = list_checkpoints(folder / "checkpoints")[-1].name
    assert "step-00000005" <= stopped_at < "step-00000042"
    if number == signal.SIGTERM:
        launch("train_conditional.py", *options)
        assert weights(folder) == weights(whole_run)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "all"])
def test_killing_the_launcher_saves_too(whom, shared, launch, digits_options):
    """As a person ends it; or a batch system, whose signal reaches the script and the launcher, and is one request."""
    folder = shared / f"killed_{whom}"
    options = [*digits_options, *OPTIONS, "--train.max_steps", 3000, "--output_dir", folder]
    process = launch("train_conditional.py", *options, accelerate_config="cpu.yaml", wait=False)
    wait_for(lambda: (folder / "logs/metrics.jsonl").exists() and len(losses(folder)) >= 2, process)
    process.terminate() if whom == "launcher" else os.killpg(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=60)  # ends when the script has, too
    assert "run the same command again to resume" in out
    assert list_checkpoints(folder / "checkpoints")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("whom", ["group", "launcher", "rank", "rank killed"])
def test_a_run_of_several_processes_is_stopped(whom, processes, shared, launch, digits_options):
    """A signal saves, whoever receives it; if one is killed outright, the others end and the last checkpoint stays."""
    folder = shared / f"stopped_{whom}_{processes}"
    options = [*digits_options, *OPTIONS, "--train.max_steps", 3000, "--output_dir", folder]
    options += ["--train.checkpoint_every", 3]
    process = launch("train_conditional.py", *options, processes=processes, launcher=True, wait=False)
    wait_for(lambda: (folder / "checkpoints/step-00000003").exists(), process)
    before, ranks = list_checkpoints(folder / "checkpoints")[-1].name, ranks_of(process)
    assert len(ranks) == processes
    if whom == "group":
        os.killpg(process.pid, signal.SIGTERM)
    elif whom == "launcher":
        process.terminate()
    else:
        os.kill(ranks[-1], signal.SIGTERM if whom == "rank" else signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    wait_for(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), seconds=10)
    after = list_checkpoints(folder / "checkpoints")[-1].name
    if whom == "rank killed":
        assert after >= before
        assert "bug in Cardiff" not in err and "error: Another process of this launch has ended" in err
    else:
        assert "run the same command again to resume" in out
        assert int(after[-8:]) == len(losses(folder)), "the last step is saved"
    last = list_checkpoints(folder / "checkpoints")[-1]
    assert find_damage(last) is None


def ranks_of(process) -> list[int]:
    """The processes that a launcher has started, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank = [value[5:] for value in variables if value.startswith(b"RANK=")]
        found |= {int(number): int(child) for number in rank}
    return [found[rank] for rank in sorted(found)]


def test_sampling_does_not_depend_on_processes_or_batches(whole_run, shared, launch):
    options = ["--model", whole_run, "--labels", "0,seven", "--num_images", 10, "--guidance_scale", 2, "--steps", 3]
    runs = {"one": (1, 4), "two": (2, 4), "other_batch": (1, 10)}
    images, drawn_by_the_first = {}, {"one": "10/10", "two": "6/6", "other_batch": "10/10"}
    for name, (processes, batch_size) in runs.items():
        output = shared / f"samples_{name}"
        result = launch("sample.py", *options, "--batch_size", batch_size, "--output", output, processes=processes)
        assert drawn_by_the_first[name] in result.err
        images[name] = np.stack([np.asarray(Image.open(output / f"{i:06d}.png")) for i in range(10)]).astype(int)
    np.testing.assert_array_equal(images["two"], images["one"])
    assert np.abs(images["other_batch"] - images["one"]).max() <= 1
    assert images["one"].std() > 10
    manifests = [(shared / f"samples_{name}/manifest.jsonl").read_text() for name in runs]
    assert manifests[0] == manifests[1] == manifests[2]
    assert [json.loads(line)["name"] for line in manifests[0].splitlines()][:2] == ["zero", "seven"]


@pytest.mark.parametrize("script", ["train_conditional.py", "sample.py"])
def test_processes_that_know_nothing_of_each_other_are_refused(script, shared, launch, digits_options):
    """As Accelerate starts two without a GPU: each would do all the work, in the same folder."""
    folder = shared / "strangers"
    training = [*digits_options, "--output_dir", folder]
    options = ["--model", shared, "--output", folder] if script == "sample.py" else training
    alone = {"ACCELERATE_USE_CPU": "false", "WORLD_SIZE": "2"}
    result = launch(script, *options, env=alone, check=False)
    assert result.returncode == 1 and not (shared / "strangers").exists()
    assert result.err.startswith("error: 2 processes were launched (WORLD_SIZE), but they are not connected")


def test_an_unconditional_run_is_a_stock_pipeline(shared, launch, digits_options):
    folder = shared / "unconditional"
    launch("train_unconditional.py", *digits_options[2:], "--data.path", "parquet", "--data.resolution", 16,
           "--data.channels", 1, "--data.upscale", "true", "--train.max_steps", 2, "--output_dir", folder)  # fmt: skip
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
    result = launch("sample.py", "--model", folder, "--steps", 2, "--num_images", 4, "--grid", shared / "grid.png")
    assert "grid.png" in result.out
    assert Image.open(shared / "grid.png").size[0] > 4 * 16


def test_bad_input_is_one_sentence_without_traceback(tmp_path, launch, digits_options):
    options = [*digits_options, "--output_dir", tmp_path / "run", "--data.path", "/nowhere"]
    result = launch("train_conditional.py", *options, check=False)
    assert result.returncode == 1 and "Traceback" not in result.err
    error = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "/nowhere" in error[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--train.batch_sise", 3], "there is no option 'train.batch_sise'; did you mean 'train.batch_size'?"),
        (["--train.batch_size", 50, "--train.gradient_accumulation_steps", 3], "must be a multiple of 3"),
        (["--train.trackers", "[wandb]"], "train.trackers lists 'wandb', which is not installed"),
    ],
)
def test_bad_input_is_one_sentence(options, sentence, tmp_path, capsys, digits_options):
    """In this process, which saves the launch."""
    with pytest.raises(SystemExit) as exit_of:
        train_conditional.main([*map(str, [*digits_options, "--output_dir", tmp_path / "run", *options])])
    assert exit_of.value.code in (1, 2)
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and sentence in error[0]
    assert not (tmp_path / "run").exists()


def wait_for(condition, process=None, seconds=120):
    """Wait until something has happened, and fail at once if the process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)
