"""The whole measurement: on images whose figures are known, and on a model."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cardiff import progress
from cardiff.evaluation.evaluate import run
from cardiff.evaluation.features.networks import load_network
from cardiff.evaluation.protocol import Protocol
from cardiff.evaluation.reports.evaluation import as_json
from cardiff.evaluation.samples import labels_as_in
from cardiff.hub.serialization import save_classifier
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run as run_sampling
from cardiff.schedulers import CosineScheduler
from cardiff.version import cardiff_version
from tests.support.reports import metrics_of, values
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_set import COUNTS, NAMES, tiny_images, write_set

METRICS = "fid,kid,prdc,diversity"


# Truth


def test_the_reference_measured_against_itself(world, options):
    folder = run(replace(options, images=str(world["train"].with_suffix(""))))
    found = values(metrics_of(folder))
    assert found["fid"] == pytest.approx(0, abs=1e-9)
    assert found["kid"] < 0  # unbiased: as far below 0 as chance is above
    assert found["precision"] == found["recall"] == found["coverage"] == 1
    assert found["diversity"] == pytest.approx(1)


def test_a_planted_copy_is_found_and_held_out_images_raise_no_alarm(world, options, tmp_path):
    """The samples are real images that neither the training set nor the held-out set has, and one copy."""
    fresh = write_set(tmp_path / "fresh", 2).with_suffix("")
    options = replace(options, images=str(fresh), validation_data=str(world["held_out"]), metrics="memorisation")
    assert "Too near" not in (run(options) / "report.md").read_text()
    shutil.copy(world["train"].with_suffix("") / "bee/007.png", fresh / "bee/planted.png")
    report = (run(options) / "report.md").read_text()
    assert re.search(r"Too near a training image: bee/planted.png\.\n", report)
    panel = np.asarray(Image.open(Path(options.output) / "closest.png"))
    assert panel.std() > 10


def test_files_with_any_name_are_listed_as_they_are(world, options, tmp_path):
    fresh = write_set(tmp_path / "fresh", 2).with_suffix("")
    copy = world["train"].with_suffix("") / "bee/007.png"
    for name in ("*a*|<b>.png", "$x$.png"):
        shutil.copy(copy, fresh / "bee" / name)
    folder = run(replace(options, images=str(fresh), validation_data=str(world["held_out"]), metrics="memorisation"))
    listed = re.search(r"Too near a training image: (.*)\.\n", (folder / "report.md").read_text())[1].split(", ")
    assert set(listed) == {r"bee/\*a\*&#124;&lt;b&gt;.png", "bee/&#36;x&#36;.png"}


def test_the_judge_reads_what_it_reads(world, options):
    """Accuracy, confusion and class shift against the judge's own logits."""
    options = replace(
        options,
        model=str(world["model"]),
        metrics="fid,accuracy",
        accuracy_classifier=str(world["judge"]),
        num_images=24,
    )
    folder = run(options)
    found = metrics_of(folder)
    drawn = [json.loads(line) for line in (folder / "images/seed-0/manifest.jsonl").read_text().splitlines()]
    images = np.stack([np.asarray(Image.open(folder / "images/seed-0" / entry["file"])) for entry in drawn])
    judge = load_network(str(world["judge"]), device=torch.device("cpu"))
    read = judge(torch.from_numpy(images)[:, None])[1].argmax(1).numpy()
    labels = np.array([entry["label"] for entry in drawn])
    assert found["metrics"]["accuracy"]["value"] == pytest.approx((read == labels).mean())
    assert np.array(found["confusion"])[labels[0]].sum() == (labels == labels[0]).sum()
    shares = np.bincount(read, minlength=12) / 24
    shift = np.abs(shares - np.array(COUNTS) / 60).sum() / 2
    assert found["metrics"]["class_shift"]["value"] == pytest.approx(shift)


@pytest.fixture
def by_classes(world, options, tmp_path):
    """A protocol whose judge has the data's classes in another order, the reference's features, and their classes."""
    order = np.random.default_rng(0).permutation(12)
    judge = tiny_classifier(num_classes=12, id2label={place: NAMES[label] for place, label in enumerate(order)})
    save_classifier(judge, CosineScheduler().to_stock(), tmp_path / "judge")
    options = replace(options, metrics="fid,accuracy", accuracy_classifier=str(tmp_path / "judge"))
    protocol = Protocol(options, 8, 1, 16)
    assert protocol.reference.class_names == list(NAMES.values())
    columns = np.argsort(order)  # of the judge, by class of the data
    return protocol, protocol.reference.features, protocol.reference.labels, columns


def test_classes_are_read_in_the_order_of_the_data(by_classes):
    """Whatever the order in the judge's head: logits that are surest of every image's own class read all of them."""
    protocol, features, labels, columns = by_classes
    measured = protocol.estimator.measure(features, None, np.eye(12)[columns[labels]], labels)
    np.testing.assert_array_equal(measured.predicted, labels)
    assert measured.estimates["accuracy"].value == 1
    np.testing.assert_array_equal(measured.confusion, np.diag(COUNTS))
    assert measured.estimates["class_shift"].value == 0
    # Asked for as the next class instead, every image is in the row asked for and the column read.
    measured = protocol.estimator.measure(features, None, np.eye(12)[columns[labels]], (labels + 1) % 12)
    assert measured.estimates["accuracy"].value == 0
    assert [measured.confusion[(label + 1) % 12, label] for label in range(12)] == list(COUNTS)


def test_samples_are_weighted_to_the_classes_of_the_data(by_classes):
    """The reference with some classes twice or three times is itself again, but for the counts in n − 1."""
    protocol, features, labels, columns = by_classes
    often, counts = np.arange(12) % 3 + 1, np.array(COUNTS)
    features, labels = features.repeat(often[labels], 0), labels.repeat(often[labels])
    measured = protocol.estimator.measure(features, None, np.eye(12)[columns[labels]], None)
    count = (often * counts).sum()
    factor = count / (count - 1) * 59 / 60
    expected = np.trace(protocol.reference.gaussian.covariance) * (np.sqrt(factor) - 1) ** 2
    assert measured.balanced == pytest.approx(expected, rel=1e-6)
    assert measured.estimates["fid"].value > 100 * measured.balanced
    shift = np.abs(often * counts / count - counts / 60).sum() / 2
    assert measured.estimates["class_shift"].value == pytest.approx(shift)
    assert [row["images"] for row in measured.per_class] == (often * counts).tolist()
    assert [row["share_of_the_data"] for row in measured.per_class] == pytest.approx(counts / 60)


# The model


def test_a_model_is_measured_by_the_images_that_sample_py_draws(world, options, tmp_path):
    folder = run(replace(options, model=str(world["model"]), seeds=[0, 1], num_images=24))
    found = metrics_of(folder)
    assert found["images"] == 24 and found["seeds"] == [0, 1]
    assert found["metrics"]["fid"]["over_seeds"] > 0
    # The same images by sample.py, measured as a folder.
    labels = labels_as_in(np.array(COUNTS, float), 24)
    drawn = tmp_path / "by_hand"
    run_sampling(
        SampleOptions(
            str(world["model"]), output=str(drawn), labels=labels, num_images=24, seed=1, steps=2, batch_size=16
        )
    )
    by_hand = values(metrics_of(run(replace(options, images=str(drawn), output=str(tmp_path / "again")))))
    assert by_hand["fid"] == found["metrics"]["fid"]["seeds"][1]
    assert by_hand["kid"] == found["metrics"]["kid"]["seeds"][1]


def test_the_report_carries_its_protocol(world, options):
    folder = run(
        replace(
            options, model=str(world["twin"]), solver="ddim", validation_data=str(world["held_out"]), num_images=20
        )
    )
    found = metrics_of(folder)
    assert found["model"]["kind"] == "unconditional" and found["model"]["timestep_spacing"] == "trailing"
    assert found["sampling"]["solver"] == "ddim" and found["sampling"]["steps"] == 2
    assert found["sampling"]["weights_sha256"] == found["model"]["weights_sha256"]
    protocol = found["protocol"]
    assert protocol["reference"]["data"]["images"] == 60 and protocol["held_out"]["data"]["images"] == 60
    assert protocol["features"] == 64 and "torch" in protocol["libraries"]
    assert protocol["cardiff"] == cardiff_version()
    assert str(world["train"].parent) not in (folder / "metrics.json").read_text()  # no path of this machine
    page = (folder / "report.html").read_text()
    assert set(re.findall(r'src="(.{10})', page)) == {"data:image"}  # nothing beside the file is needed
    for name in re.findall(r"\]\((\w+\.png)\)", (folder / "report.md").read_text()):
        assert Image.open(folder / name).size[0] > 100


def test_the_precision_of_samples_is_reported_where_it_is_not_float32(world, options, tmp_path):
    options = replace(options, model=str(world["twin"]), num_images=20, metrics="fid")
    assert "precision" not in metrics_of(run(options))["sampling"]
    folder = run(replace(options, precision="bf16", output=str(tmp_path / "bf16")))
    assert metrics_of(folder)["sampling"]["precision"] == "bf16"
    assert '"precision": "bf16"' in (folder / "report.md").read_text()


def test_records_are_json_for_every_program(world, options):
    """Which has no infinite numbers, as the end of an interval may be."""
    interval = [-3.0, float("inf")]
    folder = run(replace(options, model=str(world["model"]), num_images=20, metrics="fid", guidance_interval=interval))
    text = (folder / "metrics.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["sampling"]["guidance_interval"] == [-3.0, "inf"]
    assert "Infinity" not in text + (folder / "report.md").read_text()
    assert as_json({"a": (float("nan"), 1.5, True)}) == json.dumps({"a": [None, 1.5, True]}, indent=1)


def test_images_are_dropped_if_asked(world, options):
    folder = run(replace(options, model=str(world["twin"]), num_images=20, keep_images=False))
    assert not (folder / "images").exists() and (folder / "metrics.json").exists()


@pytest.mark.slow
def test_two_processes_measure_the_same(world, options, launch):
    shared = ["--model", world["model"], "--reference", world["train"], "--network", "pixels", "--metrics", METRICS]
    shared += ["--num_images", "40", "--steps", "2", "--batch_size", "8", "--replicates", "20"]
    one, two = Path(options.output), Path(options.output + "_two")
    launch("evaluate.py", *shared, "--output", one)
    result = launch("evaluate.py", *shared, "--output", two, processes=2)
    assert "24/24" in result.err  # of 5 batches the first process draws 3
    assert metrics_of(one)["metrics"] == metrics_of(two)["metrics"]


# What is said besides the figures


def test_a_warning_stands_in_the_report_in_the_record_and_on_the_terminal(world, options, tmp_path, caplog):
    """Of images that are nearly the mean of the most frequent class, and not of real images."""
    rng = np.random.default_rng(0)
    real = max(tiny_images(0).values(), key=len)
    grey = tmp_path / "grey"
    grey.mkdir()
    for i in range(30):
        pixels = real.mean(0) + rng.normal(0, 2, (8, 8))
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(grey / f"{i:02d}.png")
    folder = run(replace(options, images=str(grey)))
    warnings = metrics_of(folder)["warnings"]
    assert len(warnings) == 2 and warnings[0].startswith("Density is ") and warnings[1].startswith("Precision is 1.00")
    report = (folder / "report.md").read_text()
    assert all(f"**Warning.** {warning}" in report and warning in caplog.text for warning in warnings)
    caplog.clear()
    folder = run(replace(options, images=str(world["held_out"].with_suffix("")), output=str(tmp_path / "real")))
    assert metrics_of(folder)["warnings"] == [] and "Warning" not in (folder / "report.md").read_text() + caplog.text


def test_long_computations_show_their_progress(world, options, capsys, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0)
    run(replace(options, images=str(world["held_out"].with_suffix("")), validation_data=None))
    shown = capsys.readouterr().err
    for what in ("kernel distance", "precision and recall", "density and coverage", "diversity of the classes"):
        assert f"{what}:" in shown
