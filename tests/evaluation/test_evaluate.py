"""The whole measurement: on images whose figures are known, on a model, and what is refused."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import save_file

import evaluate
from cardiff import progress
from cardiff.cli import parse_options
from cardiff.config.sections import DataConfig
from cardiff.errors import UserError
from cardiff.evaluation.evaluate import run
from cardiff.evaluation.features import extraction as features_module
from cardiff.evaluation.features.networks import load_network
from cardiff.evaluation.features.statistics import import_reference
from cardiff.evaluation.options import EvaluateOptions
from cardiff.evaluation.protocol import Protocol
from cardiff.evaluation.reports.evaluation import rows_by_class, shown_classes
from cardiff.evaluation.samples import keep_best, labels_as_in
from cardiff.hub.serialization import save_classifier
from cardiff.integrity import check_model, listed_files
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run as run_sampling
from cardiff.schedulers import CosineScheduler
from cardiff.version import cardiff_version
from tests.conftest import ROOT
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_set import COUNTS, NAMES, tiny_images, write_set, write_world

METRICS = "fid,kid,prdc,diversity"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture
def options(world, tmp_path):
    return EvaluateOptions(
        output=str(tmp_path / "report"), reference=str(world["train"]), network="pixels", metrics=METRICS,
        replicates=20, steps=2, batch_size=16,
    )  # fmt: skip


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def values(found):
    return {name: estimate["value"] for name, estimate in found["metrics"].items()}


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


def test_labels_are_as_frequent_as_in_the_data_at_every_beginning():
    shares = np.array([5.0, 1.0, 3.0])
    drawn = np.array(labels_as_in(shares, 90))
    for count in range(1, 91):
        expected = shares / 9 * count
        assert np.abs(np.bincount(drawn[:count], minlength=3) - expected).max() <= 1


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


# The reference


def test_reference_features_are_computed_once(world, options, monkeypatch):
    run(replace(options, images=str(world["held_out"].with_suffix(""))))
    seen = []
    extract = features_module.extract
    monkeypatch.setattr(features_module, "extract", lambda network, images, *rest: seen.append(len(images)))
    run(replace(options, images=str(world["held_out"].with_suffix(""))))
    assert seen == [] and extract


def test_features_of_one_network_are_not_taken_for_those_of_another(world, options):
    """Nor those of other images: the cache knows a set of features by both."""

    def reference(**changes):
        return Protocol(replace(options, **changes), 8, 1, 16).reference

    pixels, judge = reference(), reference(network=str(world["judge"]))
    others = reference(reference=str(world["held_out"]))
    assert len({pixels.key, judge.key, others.key}) == 3
    images = torch.from_numpy(np.array(pixels.images))
    np.testing.assert_array_equal(pixels.features, images.flatten(1).numpy() / np.float32(255))
    expected = load_network(str(world["judge"]), device=torch.device("cpu"))(images)
    np.testing.assert_allclose(judge.features, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(judge.logits, expected[1], rtol=1e-5, atol=1e-6)
    assert not np.array_equal(others.features, pixels.features)


def test_exported_statistics_stand_for_the_data(world, options, tmp_path):
    images = str(world["held_out"].with_suffix(""))
    file = tmp_path / "statistics.safetensors"
    found = metrics_of(run(replace(options, images=images, export_reference=str(file))))
    again = metrics_of(run(replace(options, images=images, reference=str(file))))
    for name in ("fid", "kid", "precision", "coverage"):
        assert again["metrics"][name] == found["metrics"][name]
    key = found["protocol"]["reference"]["key"]
    assert again["protocol"]["reference"]["key"] == key
    run(replace(options, images=images, reference=str(file), pin=key))
    with pytest.raises(UserError, match=f"The key of the reference is {key} and --pin is 123: the data"):
        run(replace(options, images=images, reference=str(file), pin="123"))

    small = tmp_path / "small.safetensors"
    run(replace(options, images=images, export_reference=str(small), export_features=False))
    only = values(metrics_of(run(replace(options, images=images, reference=str(small), metrics="fid"))))
    assert only["fid"] == found["metrics"]["fid"]["value"]
    with pytest.raises(UserError, match="kid, which needs the reference's features"):
        run(replace(options, images=images, reference=str(small)))


def test_statistics_of_another_network_are_refused(world, options, tmp_path):
    file = tmp_path / "statistics.safetensors"
    images = str(world["held_out"].with_suffix(""))
    run(replace(options, images=images, export_reference=str(file)))
    with pytest.raises(UserError, match="made with another network or preprocessing"):
        run(replace(options, images=images, reference=str(file), network=str(world["judge"])))


def test_of_a_larger_set_a_random_part_is_the_reference(world, options):
    """Not its beginning, which is one class in a set that is sorted."""
    found = metrics_of(run(replace(options, images=str(world["held_out"].with_suffix("")), max_images=24)))
    data = found["protocol"]["reference"]["data"]
    assert data["images"] == 24 and data["chosen_of"] == 60
    shares = [row["share_of_the_data"] for row in found["per_class"]]
    assert sum(share > 0 for share in shares) > 8 and max(shares) < 0.4 and sum(shares) == pytest.approx(1)


def test_statistics_of_images_of_another_size_are_refused(world, options, tmp_path):
    """Whatever the network takes: here samples of 16 pixels against statistics of images of 8."""
    file = tmp_path / "statistics.safetensors"
    images = world["held_out"].with_suffix("")
    run(replace(options, images=str(images), export_reference=str(file), metrics="fid"))
    for i in range(3):
        (tmp_path / "large").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / f"large/{i}.png")
    with pytest.raises(UserError) as error:
        run(replace(options, images=str(tmp_path / "large"), reference=str(file), metrics="fid"))
    assert "has images of 8 pixels and 1 channels, but the samples have 16 and 1: give the stat" in str(error.value)


def test_a_data_section_is_read_as_a_training_script_reads_it(world, options, tmp_path):
    """A number in quotes is a number, what else a run's file has is passed over, and a mistake is named."""
    images = str(world["held_out"].with_suffix(""))
    file = tmp_path / "data.yaml"
    data = f"data: {{path: {world['train'].with_suffix('')}, channels: 1, resolution: %s}}\n"
    file.write_text(data % '"8"' + "unet: {dropout: 3}\nscheduler: {name: x}\ntrain: {epochs: 1}\n")
    found = metrics_of(run(replace(options, images=images, reference=str(file), metrics="fid")))
    same = metrics_of(run(replace(options, images=images, metrics="fid", output=str(tmp_path / "again"))))
    assert found["protocol"]["reference"]["key"] == same["protocol"]["reference"]["key"]
    for content, sentence in (
        (
            data % "8, resolutoin: 8",
            "data.yaml: there is no option 'data.resolutoin'; did you mean 'data.resolution'?",
        ),
        (data % "eight", "data.yaml: data.resolution is 'eight', but must be int."),
        (data % "0", "data.yaml: data.resolution is 0, but must be 1 or more."),
        ("train: {epochs: 1}", "data.yaml has no data section"),
        ("data: [", "data.yaml is not a YAML file"),
    ):
        file.write_text(content)
        with pytest.raises(UserError) as error:
            run(replace(options, images=images, reference=str(file), metrics="fid"))
        assert sentence in str(error.value)


def test_a_file_that_does_not_say_what_its_statistics_are_of_is_refused(world, options, tmp_path):
    record = json.dumps({"network": {"kind": "pixels", "range": "0 to 1"}, "data": {}})
    file = tmp_path / "bad.safetensors"
    save_file({"mean": np.zeros(64), "covariance": np.eye(64)}, file, metadata={"cardiff_reference": record})
    with pytest.raises(UserError, match="does not say of which data its statistics are"):
        run(replace(options, images=str(world["held_out"].with_suffix("")), reference=str(file), metrics="fid"))


# A streamed reference


def streamed(file: Path, folder: Path, **more) -> Path:
    """The same data section, read as a stream."""
    data = yaml.safe_load(file.read_text())["data"]
    path = folder / f"{file.stem}_streamed.yaml"
    path.write_text(yaml.safe_dump({"data": {**data, "streaming": True, **more}}))
    return path


def test_a_streamed_reference_gives_the_figures_of_a_stored_one(world, options, tmp_path):
    """Of samples of a model too, whose classes are drawn as often as in the stream; with copies and by key."""
    shared = {"model": str(world["model"]), "num_images": 24, "metrics": "fid,kid,prdc,diversity,memorisation"}
    stored = metrics_of(run(replace(options, **shared, validation_data=str(world["held_out"]))))
    reference, held_out = (streamed(world[name], tmp_path) for name in ("train", "held_out"))
    output = str(tmp_path / "streamed")
    options = replace(options, **shared, reference=str(reference), validation_data=str(held_out), output=output)
    found = metrics_of(run(options))
    for name in ("metrics", "held_out", "per_class", "memorisation", "images"):
        assert found[name] == stored[name]
    assert "chosen_of" not in found["protocol"]["reference"]["data"]

    key = found["protocol"]["reference"]["key"]
    run(replace(options, pin=key))  # the same stream has the same key
    with pytest.raises(UserError, match="--pin is .*: the data, the preprocessing"):
        run(replace(options, pin=key, max_images=59))
    with pytest.raises(UserError, match="--validation_data is the reference itself"):
        run(replace(options, validation_data=str(reference)))


def test_of_a_longer_stream_a_random_part_is_the_reference(world, options, tmp_path):
    reference = streamed(world["train"], tmp_path)
    images = str(world["held_out"].with_suffix(""))
    found = metrics_of(run(replace(options, images=images, reference=str(reference), max_images=24)))
    data = found["protocol"]["reference"]["data"]
    assert data["images"] == 24 and data["chosen_of"] == 60
    again = metrics_of(run(replace(options, images=images, reference=str(reference), max_images=24)))
    assert again["protocol"]["reference"]["key"] == found["protocol"]["reference"]["key"]


# Figures that contradict each other


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


def test_statistics_of_the_same_kind_of_network_are_told_apart(world, options, tmp_path):
    """By every value of its record: other weights, another resizing."""
    file = tmp_path / "statistics.safetensors"
    network = Protocol(replace(options, export_reference=str(file)), 8, 1, 16).network
    other = replace(network, record={**network.record, "range": "-1 to 1"})
    with pytest.raises(UserError, match=r"\(range is 0 to 1 there and -1 to 1 here\): give that network"):
        import_reference(file, other)


def test_the_record_of_the_data_has_no_folders():
    config = DataConfig(
        path="parquet", data_files=["/home/someone/a.parquet", "/home/someone/b.parquet"], split="test"
    )
    record = features_module.data_record(config, "123", 7)
    assert record["data_files"] == ["a.parquet", "b.parquet"] and "someone" not in json.dumps(record)
    assert (record["path"], record["split"], record["images"], record["pixels_key"]) == ("parquet", "test", 7, "123")
    one = features_module.data_record(replace(config, path="/home/someone/cats", data_files="/x/a.parquet"), "123", 7)
    assert one["path"] == "cats" and one["data_files"] == ["a.parquet"]


def test_damaged_features_are_computed_again(world, options, monkeypatch, tmp_path):
    monkeypatch.setenv("CARDIFF_CACHE", str(tmp_path / "cache"))
    reference = Protocol(options, 8, 1, 16).reference
    (file,) = (tmp_path / "cache").rglob("features.npy")
    np.save(file, np.zeros((59, 64), np.float32))
    np.testing.assert_array_equal(Protocol(options, 8, 1, 16).reference.features, reference.features)


def test_the_part_has_every_image_once_and_its_own_label(world, options):
    reference = Protocol(replace(options, max_images=24), 8, 1, 16).reference
    images = np.asarray(reference.images, float)
    assert len(np.unique(images.reshape(24, -1), axis=0)) == 24
    lines = np.concatenate([images.mean((1, 2)), images.mean((1, 3))[:, :4]], 1)  # the bright one tells the class
    np.testing.assert_array_equal(lines.argmax(1), reference.labels)
    assert reference.record["data"]["chosen_of"] == 60 and reference.count == 24


def test_exported_labels_come_back(world, options, tmp_path):
    """By them the classes of a model are drawn as often as in the data."""
    options = replace(options, export_reference=str(tmp_path / "statistics.safetensors"))
    reference = Protocol(options, 8, 1, 16).reference
    again = import_reference(tmp_path / "statistics.safetensors", load_network("pixels", device=torch.device("cpu")))
    np.testing.assert_array_equal(again.labels, reference.labels)
    np.testing.assert_array_equal(again.features, reference.features)
    assert again.class_names == reference.class_names and again.record == reference.record
    np.testing.assert_array_equal(again.gaussian.covariance, reference.gaussian.covariance)


# Refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"export_reference": "reference.npz"}, "--export_reference reference.npz must end in .safetensors"),
        ({"batch_size": 0}, "--batch_size is 0, but must be 1 or more."),
        ({"images": None}, "Give either --images DIR or --model DIR_OR_REPO."),
        ({"metrics": "fdi"}, "--metrics names 'fdi', which is not a metric; did you mean 'fid'?"),
        ({"metrics": "accuracy"}, "accuracy, which needs a classifier: give --accuracy_classifier"),
        ({"metrics": "memorisation"}, "give --validation_data"),
        ({"validation_data": "x.safetensors"}, "--validation_data is a file of statistics"),
        ({"output": "/dev/null/here"}, "--output /dev/null/here cannot be written"),
        ({"output": "setup.cfg"}, "--output setup.cfg cannot be written"),
        (
            {"export_reference": "/dev/null/x.safetensors"},
            "--export_reference /dev/null/x.safetensors cannot be written",
        ),
        ({"max_images": 1}, "--max_images is 1, but must be 2 or more"),
        ({"metrics": "is"}, "has no classification head"),
        ({"metrics": "fid_infinity"}, "60 images are too few for fid_infinity"),
        ({"num_images": 5}, "5 images are too few for prdc"),
        ({"num_images": 61}, "contains 60 images"),
        ({"reference": None}, "Give --reference"),
        ({"reference": "nothing"}, "nothing is neither a YAML file"),
        ({"reference": "nothing.yaml"}, "nothing.yaml cannot be read"),
        ({"reference": "setup.cfg"}, "setup.cfg is neither a YAML file"),
        (
            {"reference": "configs/digits_16_conditional.yaml"},
            "has images of 16 pixels and 1 channels, but the samples",
        ),
        ({"seeds": [0, 0]}, "--seeds is [0, 0], but the seeds must be different"),
        ({"replicates": 1}, "--replicates is 1"),
    ],
)
def test_refused(changes, sentence, world, options, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        run(replace(options, **{"images": str(world["held_out"].with_suffix("")), **changes}))
    assert sentence in str(error.value)
    assert not Path(options.output).exists()


@pytest.mark.parametrize(
    "changes",
    [{"metrics": "memorisation"}, {"metrics": "is"}, {"num_images": 5}, {"metrics": "accuracy"}, {"metrics": "x"}],
)
def test_options_are_refused_before_the_reference_is_looked_at(changes, world, options, monkeypatch):
    monkeypatch.setattr(features_module, "open_store", None)
    with pytest.raises(UserError):
        run(replace(options, images=str(world["held_out"].with_suffix("")), **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"guidance_scale": [1, 2]}, "--guidance_scale is [1, 2], but one value is measured at a time"),
        ({"solver": "dmp"}, "There is no solver 'dmp'"),
        ({"steps": 1001}, "--steps is 1001, but the model has 1000 timesteps: give 1 to 1000"),
        ({"guidance_interval": "1"}, "--guidance_interval is 1"),
    ],
)
def test_a_drawing_that_cannot_be_is_refused_before_anything_is_computed(
    changes, sentence, world, options, monkeypatch
):
    monkeypatch.setattr(features_module, "extract", None)  # nor is the reference opened
    with pytest.raises(UserError) as error:
        run(replace(options, model=str(world["model"]), reference="nothing", **changes))
    assert sentence in str(error.value)


def test_a_model_of_other_classes_is_refused(world, options, tmp_path):
    other = write_set(tmp_path / "other", 3)
    (tmp_path / "other/bee").rename(tmp_path / "other/wasp")
    with pytest.raises(UserError, match="give the data that the model was trained on"):
        run(replace(options, model=str(world["model"]), reference=str(other), num_images=20))


def test_the_script_says_it_in_one_sentence(world, options, capsys):
    arguments = ["--images", "/nowhere", "--reference", str(world["train"]), "--output", options.output]
    with pytest.raises(SystemExit) as exit_of:
        evaluate.main(arguments)
    error = capsys.readouterr().err
    assert exit_of.value.code == 1 and error.startswith("error: ") and error.count("\n") == 1


def test_options_of_the_command_line():
    options = parse_options(EvaluateOptions, ["--model", "runs/a", "--output", "out", "--guidance_scale", "2"], "")
    assert (options.guidance_scale, options.solver, options.network) == ([2.0], "dpm", "inception")


# The best model of a training run


def saving(text):
    return lambda folder: (folder / "model.json").write_text(text)


def test_the_best_model_is_kept(tmp_path):
    best = tmp_path / "best"
    kept = [keep_best(best, {"distance": {"value": value}}, saving(str(value))) for value in (3.0, 2.0, 2.5, 2.0, 1.0)]
    assert kept == [True, True, False, False, True]
    assert (best / "model.json").read_text() == "1.0"
    check_model(best)
    assert set(listed_files(best)) == {"model.json", "evaluation.json"}
    assert not keep_best(best, {"distance": {"value": math.nan}}, saving("no number"))
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.json", "1.1"),
        ("evaluation.json", "{"),
        ("evaluation.json", '{"distance": {"value": 0.5}}'),
        ("checksums.json", "[" * 100_000),
    ],
)
def test_a_best_model_that_is_damaged_is_replaced(name, content, tmp_path, caplog):
    best = tmp_path / "best"
    keep_best(best, {"distance": {"value": 1.0}}, saving("1.0"))
    (best / name).write_text(content)
    assert keep_best(best, {"distance": {"value": 9.0}}, saving("9"))
    assert (best / "model.json").read_text() == "9" and "The best model so far is damaged" in caplog.text


def test_the_best_model_of_an_earlier_version_is_kept(tmp_path, caplog):
    """It has no checksums."""
    best = tmp_path / "best"
    keep_best(best, {"distance": {"value": 1.0}}, saving("1.0"))
    (best / "checksums.json").unlink()
    assert not keep_best(best, {"distance": {"value": 9.0}}, saving("9")) and not caplog.text
    for content in ('{"distance": 3}', '{"distance": {"value": "1.0"}}', "[]", '{"distance": {"value": NaN}}'):
        (best / "evaluation.json").write_text(content)
        (best / "checksums.json").unlink(missing_ok=True)
        assert keep_best(best, {"distance": {"value": 9.0}}, saving("9"))


def test_a_grid_has_a_row_a_class_and_white_where_there_are_no_images():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(2, 2).repeat(2, 3)
    grid = rows_by_class(images, np.array([4, 1, 4, 4, 1]), [4, 1], columns=3)
    assert grid.shape == (6, 2, 2, 1) and grid[:, 0, 0, 0].tolist() == [0, 2, 3, 1, 4, 255]
    assert shown_classes(np.repeat(np.arange(0, 80, 2), 3)) == [0, 8, 18, 26, 34, 44, 52, 60, 70, 78]


def test_import_needs_statistics(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as reference statistics"):
        import_reference(tmp_path / "bad.safetensors", load_network("pixels", device=torch.device("cpu")))
