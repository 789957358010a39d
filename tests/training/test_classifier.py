"""The classifier's trainer: that it learns, what it measures, and that it resumes and refuses as the others do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

import train_classifier
import train_conditional
from cardiff.config.run import parse_run
from cardiff.data import open_store
from cardiff.data.batches import split_rows
from cardiff.files import file_hash
from cardiff.hub.serialization import load_classifier
from cardiff.schedulers import CosineScheduler, LinearScheduler
from cardiff.training.build import build
from cardiff.training.checkpoint import list_checkpoints
from cardiff.training.classifier_report import LEVELS, ClassifierReport, report_timesteps
from tests.conftest import ROOT
from tests.support.tiny_set import write_set


def train(folder: Path, *options) -> list[dict]:
    """Train in this process; return the log."""
    train_classifier.main([*map(str, options), "--output_dir", str(folder)])
    return [json.loads(line) for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> list[str]:
    """Hashes of all tensors that training carries forward."""
    last = list_checkpoints(folder / "checkpoints")[-1]
    return [file_hash(path) for path in sorted(last.rglob("*.safetensors"))]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("classifier")


@pytest.fixture
def trained(shared, classifier_options):
    """Folder of a tiny classifier that has learned something, made once."""
    folder = shared / "trained"
    if not folder.exists():
        options = ["--train.max_steps", 400, "--train.learning_rate", 6e-3, "--train.lr_warmup_steps", 5]
        train(folder, *classifier_options, *options, "--train.report_every", 250)
    return folder


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "logs/metrics.jsonl").read_text().splitlines()]


def report(folder: Path, step: int) -> dict:
    return json.loads((folder / f"reports/step-{step:08d}.json").read_text())


def test_it_learns(trained):
    losses = [entry["loss"] for entry in entries(trained) if "loss" in entry]
    assert len(losses) == 400
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10]) and np.mean(losses[:5]) == pytest.approx(2.3, abs=0.3)
    final = report(trained, 400)
    assert final["clean"]["accuracy"] > 0.8 and final["clean"]["cross_entropy"] < 0.8
    assert final["levels"][-1]["accuracy"] < 0.3  # of noise nothing can be read


def test_what_a_run_leaves(trained):
    files = {p.relative_to(trained).as_posix() for p in trained.rglob("*") if p.is_file()}
    left = {"classifier/config.json", "classifier/diffusion_pytorch_model.safetensors", "run.json"}
    assert left | {"scheduler/scheduler_config.json", "config.yaml", "logs/metrics.jsonl"} <= files
    assert not any(name.startswith(("unet", "samples", "model_index")) for name in files)
    shown = {name for name in files if name.startswith("reports/")}
    assert shown == {f"reports/step-00000{step}.{kind}" for step in (250, 400) for kind in ("json", "png")}
    assert all(Image.open(trained / f"reports/step-00000{step}.png").size[0] > 300 for step in (250, 400))
    classifier, _ = load_classifier(trained)
    assert classifier.id2label[7] == "seven"
    (checkpoint,) = list_checkpoints(trained / "checkpoints")
    again, _ = load_classifier(checkpoint)
    torch.testing.assert_close(again.state_dict(), classifier.state_dict(), rtol=0, atol=0)


def test_the_report_is_of_the_saved_classifier(trained, classifier_options):
    """Written anew: the clean images exactly, the noised ones up to their noise."""
    config = parse_run([*classifier_options, "--output_dir", "out"], kind="classifier", description="")
    store = open_store(config.data, conditional=True)
    _, rows = split_rows(store, 0.1, seed=0)
    images = torch.from_numpy(store.images[rows]).float() / 127.5 - 1
    labels = torch.from_numpy(store.labels[rows])
    final, (classifier, scheduler) = report(trained, 400), load_classifier(trained)
    assert final["clean"]["images"] == len(rows) == 180 and final["step"] == 400
    assert final["chance"] == pytest.approx(torch.bincount(labels).max().item() / 180)
    with torch.no_grad():
        logits = classifier(images, 0)
        assert final["clean"]["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
        assert final["clean"]["cross_entropy"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
        for level in final["levels"]:
            alpha = scheduler.alphas_cumprod[level["timestep"]].double()
            assert level["log_snr"] == pytest.approx(torch.logit(alpha).item())
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
            logits = classifier((alpha.sqrt() * images + (1 - alpha).sqrt() * noise).float(), level["timestep"])
            accuracy = (logits.argmax(1) == labels).double().mean().item()
            assert level["accuracy"] == pytest.approx(accuracy, abs=0.13)  # four standard errors of a difference
    last = entries(trained)[-1]
    assert last == {
        "step": 400,
        "validation_accuracy": final["clean"]["accuracy"],
        "validation_cross_entropy": final["clean"]["cross_entropy"],
    }


def test_the_gradient_of_a_trained_classifier(trained):
    """d log p(y|x_t)/dx_t in float64 against central differences along random directions, at several noise levels."""
    classifier = load_classifier(trained)[0].double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 1, 16, 16, generator=generator, dtype=torch.float64)
    labels, h = torch.tensor([3, 1, 4, 1]), 1e-5

    def chosen(x, t):
        return torch.log_softmax(classifier(x, t), dim=1)[range(4), labels]

    for t in (0, 300, 700, 950, 999):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(chosen(leaf, t).sum(), leaf)
        for _ in range(3):
            direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                slope = (chosen(x + h * direction, t) - chosen(x - h * direction, t)) / (2 * h)
            along = (gradient * direction).sum(dim=(1, 2, 3))
            size = gradient.norm().item()
            torch.testing.assert_close(along, slope, rtol=1e-5, atol=1e-6 * size + 1e-9)


def test_the_gradient_keeps_its_size_in_the_noise(trained):
    """|∇ log p(y|x_t)|/a, which the exact posterior has in common for all levels without signal."""
    classifier, scheduler = load_classifier(trained)
    x = torch.randn(32, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    sizes = []
    for t in (995, 998, 999):
        leaf = x.clone().requires_grad_()
        chosen = torch.log_softmax(classifier(leaf, t), dim=1)[:, 3].sum()
        sizes.append(torch.autograd.grad(chosen, leaf)[0].norm() / scheduler.alphas_cumprod[t].sqrt())
    assert max(sizes) < 1.5 * min(sizes) and min(sizes) > 0.1


def test_resumed_is_bit_identical(tmp_path, classifier_options):
    options = [*classifier_options, "--classifier.dropout", 0.2, "--train.lr_schedule", "constant"]
    options += ["--train.batch_size", 48, "--train.gradient_accumulation_steps", 3, "--train.report_every", 5]
    train(tmp_path / "whole", *options, "--train.max_steps", 6)
    train(tmp_path / "parts", *options, "--train.max_steps", 4)
    train(tmp_path / "parts", *options, "--train.max_steps", 6)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert report(tmp_path / "parts", 6) == report(tmp_path / "whole", 6)
    losses = [[e["loss"] for e in entries(tmp_path / name) if "loss" in e] for name in ("whole", "parts")]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_no_validation_image_is_ever_trained_on(tmp_path, classifier_options):
    options = [*classifier_options, "--train.epochs", 1, "--train.max_steps", "null", "--output_dir", tmp_path]
    trainer = build(parse_run([*map(str, options)], kind="classifier", description=""))
    assert trainer.total_steps == -(-(1797 - 180) // 64)
    seen = {image.tobytes() for batch in trainer.batches for image in batch["images"].numpy()}
    validation = {trainer.data.images.images[row].tobytes() for row in trainer.data.validation_rows}
    assert len(validation) == 180 and len(seen) >= 1600 and not seen & validation
    trainer.log.close()
    trainer.stop_requested.restore()


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_nothing_held_out_measures_nothing(streaming, tmp_path, classifier_options, capsys):
    options = [
        *classifier_options,
        "--train.validation_fraction",
        0,
        "--train.report_every",
        1,
        "--data.streaming",
        streaming,
    ]
    log = train(tmp_path, *options, "--train.max_steps", 2)
    assert len(log) == 2 and not (tmp_path / "reports").exists()
    assert f"Trained to step 2; the model is in {tmp_path}." in capsys.readouterr().out


def test_the_last_line_says_how_well_it_classifies(tmp_path, classifier_options, capsys):
    options = [*classifier_options, "--train.report_every", 9, "--train.max_steps", 2]
    train(tmp_path, *options)
    share = f"{report(tmp_path, 2)['clean']['accuracy']:.1%}"
    assert f"The classifier's accuracy on 180 clean validation images is {share}." in capsys.readouterr().out
    train(tmp_path, *options)
    assert "already trained to step 2; nothing to do." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["--classifier.layers_per_block", 2], "classifier.layers_per_block was 1 and is 2"),
        (["--scheduler.s", 0.01], "scheduler.s was 0.008 and is 0.01"),
        (["--train.validation_fraction", 0.2], "train.validation_fraction was 0.1 and is 0.2"),
        (["--train.seed", 1], "train.seed was 0 and is 1"),
    ],
)
def test_resuming_another_classifier_is_refused(changed, sentence, shared, classifier_options, capsys):
    options = [*classifier_options, "--train.max_steps", 1]
    train(shared / "another", *options)
    with pytest.raises(SystemExit):
        train(shared / "another", *options, *changed)
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def folder_options(tmp_path, classifier_options):
    """Options of a tiny classifier of a folder of images, a fifth of which it never sees."""
    write_set(tmp_path / "images", 0)
    options = ["--data.data_files", "null", "--data.path", tmp_path / "images", "--data.resolution", 8]
    return [*classifier_options, *options, "--train.validation_fraction", 0.2, "--train.batch_size", 4]


def test_an_image_more_would_be_trained_on_and_measured(tmp_path, folder_options, capsys):
    """One image more gives another permutation, so that the images set aside are no longer those of before."""
    train(tmp_path / "run", *folder_options, "--train.max_steps", 1)
    Image.new("L", (8, 8)).save(tmp_path / "images/bee/new.png")
    before = weights(tmp_path / "run")
    for folder, source in ((tmp_path / "run", []), (tmp_path / "new", ["--resume_from", tmp_path / "run"])):
        with pytest.raises(SystemExit):
            train(folder, *folder_options, "--train.max_steps", 2, *source)
        error = capsys.readouterr().err.splitlines()[-1]
        assert (
            f"{tmp_path / 'run'} contains a run with other validation images than {tmp_path / 'images'} gives" in error
        )
        assert ("choose another --resume_from." in error) == bool(source)
    assert weights(tmp_path / "run") == before
    (tmp_path / "images/bee/new.png").unlink()
    train(tmp_path / "run", *folder_options, "--train.max_steps", 2)


def test_the_same_images_elsewhere_and_other_ones_to_train_on_are_accepted(tmp_path, folder_options, capsys):
    train(tmp_path / "run", *folder_options, "--train.max_steps", 1)
    shutil.move(tmp_path / "images", tmp_path / "moved")
    options = [tmp_path / "moved" if option == tmp_path / "images" else option for option in folder_options]
    options += ["--data.cache_dir", tmp_path / "cache"]
    train(tmp_path / "run", *options, "--train.max_steps", 2)
    assert "other images" not in capsys.readouterr().out
    config = parse_run([*map(str, options), "--output_dir", "out"], kind="classifier", description="")
    trained_on = split_rows(open_store(config.data, conditional=True), 0.2, seed=0)[0][0]
    file = sorted((tmp_path / "moved").rglob("*.png"))[trained_on]
    Image.new("L", (8, 8), 7).save(file)
    train(tmp_path / "run", *options, "--train.max_steps", 3)
    assert "Resuming with other images" in capsys.readouterr().out


def test_a_diffusion_model_needs_a_folder_of_its_own(tmp_path, classifier_options, digits_options, capsys):
    train(tmp_path, *classifier_options, "--train.max_steps", 1)
    with pytest.raises(SystemExit):
        train_conditional.main([*digits_options, "--train.max_steps", "1", "--output_dir", str(tmp_path)])
    assert f"{tmp_path} contains a classifier run, not a unet run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data.label_column", "shape"], "label_column"),
        (["--train.validation_fraction", 0.9999], "which leaves none of 1797 images to train on: lower it."),
        (["--classifier.norm_num_groups", 3], "classifier.norm_num_groups is 3, which does not divide 8 in"),
        (
            ["--classifier.down_block_types", "[DownBlock2D,UpBlock2D]"],
            "lists 'UpBlock2D': choose from DownBlock2D and AttnDownBlock2D.",
        ),
    ],
)
def test_refusals(options, sentence, tmp_path, classifier_options, capsys):
    with pytest.raises(SystemExit):
        train(tmp_path / "run", *classifier_options, *options, "--train.max_steps", 1)
    assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "schedule", [CosineScheduler(), LinearScheduler(), CosineScheduler(rescale_betas_zero_snr=True,
    prediction_type="v_prediction"), CosineScheduler(num_train_timesteps=4)]
)  # fmt: skip
def test_the_levels_of_a_report(schedule):
    """Rising timesteps of finite log-SNR, evenly spread where the schedule has so many steps."""
    levels = report_timesteps(schedule.alphas_cumprod)
    log_snr = torch.logit(schedule.alphas_cumprod.double())[levels]
    assert levels[0] == 0 and levels == sorted(set(levels)) and log_snr.isfinite().all()
    if len(schedule.alphas_cumprod) > 100:
        assert len(levels) >= LEVELS - 2
        gaps = -log_snr.diff()
        assert gaps.max() < 2 * (log_snr[0] - log_snr[-1]) / (len(levels) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_shipped_digits_classifier_reads_held_out_digits(seed, tmp_path):
    config = ROOT / "configs/digits_16_classifier.yaml"
    options = ["--data.data_files", ROOT / "data/digits.parquet", "--train.seed", seed, "--train.trackers", "[]"]
    train(tmp_path, "--config", config, *options)
    assert report(tmp_path, 600)["clean"]["accuracy"] >= 0.97


def test_a_report_on_a_gpu_takes_its_levels_on_the_cpu(tmp_path, classifier_options, monkeypatch):
    """Noising the images has moved the noise levels to the device; a fake one refuses to compute with the CPU's."""
    argv = [*classifier_options, "--output_dir", str(tmp_path), "--train.max_steps", "1", "--train.report_every", "1"]
    trainer = build(parse_run(argv, kind="classifier", description=""))
    callback = next(callback for callback in trainer.callbacks if isinstance(callback, ClassifierReport))
    on_cpu, known = callback.scheduler.alphas_cumprod, torch.Tensor.cpu
    with FakeTensorMode():
        on_device = torch.empty(len(on_cpu), device="cuda")
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: on_cpu if tensor is on_device else known(tensor))
    monkeypatch.setattr(callback, "measure", lambda trainer, levels: torch.ones(2, 1 + len(levels)))
    callback.scheduler.alphas_cumprod = on_device
    callback.run(trainer)
    assert [level["timestep"] for level in callback.measured["levels"]] == report_timesteps(on_cpu)
    trainer.finish()
