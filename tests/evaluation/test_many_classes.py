"""Many classes with few images each: nothing ends in a traceback or in NaN, and the report says what is missing."""

import html
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cardiff.data.folders import natural_key
from cardiff.errors import UserError
from cardiff.evaluation.evaluate import run
from cardiff.evaluation.features.networks import load_network
from cardiff.evaluation.options import EvaluateOptions
from cardiff.evaluation.reports import figures
from cardiff.hub.serialization import save_classifier, save_pipeline
from cardiff.schedulers import CosineScheduler
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import tiny_pipeline

NAMES = [f"Make {i // 7} Model {i % 7:02d} Coupé 20{i % 13:02d}" for i in range(193)]
NAMES += ["<script>alert(1)<∕script>", "a|b `c` *d* ![x](http:∕∕e) Ba$$in", 'src="nothing.png"']
NAMES = sorted(NAMES, key=natural_key)


def write_classes(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """So many grey images of noise of each class, a folder each, brighter from class to class."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        if count:
            (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.normal(60 + NAMES.index(name) / 2, 30, (8, 8)).round().clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A reference with one to three images of 196 classes, and a judge of them."""
    folder = tmp_path_factory.mktemp("many")
    reference = write_classes(folder / "reference", {name: 1 + i % 3 for i, name in enumerate(NAMES)})
    judge = tiny_classifier(num_classes=196, id2label=dict(enumerate(NAMES)))
    save_classifier(judge, CosineScheduler().to_stock(), folder / "judge")
    return {"reference": reference, "judge": folder / "judge", "folder": folder}


def measured(world, images: Path | None, output: Path, **changes) -> tuple[dict, str]:
    """metrics.json, in which no number is missing, and report.md."""
    options = EvaluateOptions(
        output=str(output), images=images and str(images), reference=str(world["reference"]), network="pixels",
        metrics="fid,kid,prdc,accuracy,diversity", replicates=20, batch_size=64,
        accuracy_classifier=str(world["judge"]),
    )  # fmt: skip
    for name, value in changes.items():
        setattr(options, name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        run(options)
    text = (output / "metrics.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    return json.loads(text), (output / "report.md").read_text()


def test_fewer_samples_than_classes(world, tmp_path):
    images = write_classes(tmp_path / "images", dict.fromkeys(NAMES[::4], 1), seed=1)
    found, report = measured(world, images, tmp_path / "report")
    assert found["images"] == 49
    assert "Not measured: diversity (too few classes have two samples" in report
    assert "147 of the 196 classes have no sample and 49 of the 196 classes have a single sample." in report
    assert "66 of the 196 classes have a single real image." in report
    for name in (
        "fid",
        "kid",
        "density",
        "class_shift",
    ):  # classes of one are resampled together, so there is a spread
        assert found["metrics"][name]["standard_error"] > 0


def test_one_sample_of_each_class_of_which_some_were_held_out(world, tmp_path):
    """The held-out images are of every third class, whose numbers are others in their own folder."""
    images = write_classes(tmp_path / "images", dict.fromkeys(NAMES, 1), seed=1)
    held_out = write_classes(tmp_path / "held_out", dict.fromkeys(NAMES[1::3], 1), seed=2)
    found, report = measured(world, images, tmp_path / "report", validation_data=str(held_out))
    assert "diversity" in found["not_measured"] and found["held_out_images"] == 65
    judge = load_network(str(world["judge"]), device=torch.device("cpu"))
    files = [held_out / name / "0.png" for name in NAMES[1::3]]
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files]))[:, None]
    read = judge(pixels)[1].argmax(1).numpy()
    assert found["held_out"]["accuracy"]["value"] == (read == np.arange(1, 196, 3)).mean()
    shares = np.bincount(read, minlength=196) / 65
    assert found["held_out"]["class_shift"]["value"] == pytest.approx(
        np.abs(shares - np.array([1 + i % 3 for i in range(196)]) / 391).sum() / 2
    )


def test_the_report_of_many_classes_can_be_read(world, tmp_path):
    """Names that could be taken for markup mean themselves, and of 196 classes the extremes are told."""
    images = write_classes(tmp_path / "images", {name: 1 + i % 4 for i, name in enumerate(NAMES)}, seed=1)
    found, report = measured(world, images, tmp_path / "report")
    assert len(found["per_class"]) == 196 and np.shape(found["confusion"]) == (196, 196)
    table = report.split("| class | images |")[1].split("\n\n")[0]
    assert len(table.splitlines()) == 2 + 20
    column = table.splitlines()[0].split(" | ").index("accuracy")
    shown = [float(line.split(" | ")[column + 2]) for line in table.splitlines()[2:]]
    best_first = sorted((row["accuracy"] for row in found["per_class"] if row["images"]), reverse=True)
    assert best_first[0] > best_first[-1] and shown == pytest.approx([*best_first[:10], *best_first[-10:]], rel=0.01)
    wrong = np.array(found["confusion"]) * (1 - np.eye(196, dtype=int))
    first = re.search(r"classified as \| samples \|\n.*\n\| (.*) \| (.*) \| (\d+) \|", report)
    assert int(first[3]) == wrong.max()
    assert wrong[NAMES.index(first[1]), NAMES.index(first[2])] == wrong.max()

    page = (tmp_path / "report/report.html").read_text()
    assert "&lt;script&gt;" in page and "<script" not in page and "<em>" not in page
    assert 'src="nothing.png"' in html.unescape(page) and page.count("data:image/png;base64") == 2
    assert page.count("<img ") == 2
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert {html.unescape(cell) for cell in cells} >= set(NAMES[-2:])  # a bar in a name parts no cells


def test_a_figure_takes_names_with_dollars_and_long_ones(tmp_path):
    """Twelve names as long as those of cars, and mathematics that is none."""
    names = [
        "Ba$$in",
        "$x",
        r"a\b_{c}^",
        *(f"Chevrolet Silverado 1500 Extended Cab Special Edition {i}" for i in range(9)),
    ]
    figures.save_confusion(np.eye(12, dtype=int) * 3, names, tmp_path / "confusion.png")
    width, height = Image.open(tmp_path / "confusion.png").size
    assert height > 700 and width > height  # the matrix has not shrunk to make room for the names


def test_a_class_of_equal_real_images_has_no_diversity_to_divide_by(world, tmp_path):
    reference = write_classes(tmp_path / "reference", {NAMES[0]: 24, NAMES[1]: 1}, seed=3)
    for i in range(3):
        Image.fromarray(np.full((8, 8), 90, np.uint8)).save(reference / NAMES[1] / f"{i}.png")
    images = write_classes(tmp_path / "images", {NAMES[0]: 2, NAMES[1]: 28}, seed=4)
    found, _ = measured(world, images, tmp_path / "report", reference=str(reference))
    assert found["not_measured"] == {"diversity": "too few classes have two samples and two different real images"}
    assert [row["diversity"] is None for row in found["per_class"]] == [False, True]


def test_a_reference_too_small_for_a_metric_is_refused_before_samples_are_looked_at(world, tmp_path):
    reference = write_classes(tmp_path / "reference", dict.fromkeys(NAMES[:5], 1))
    images = write_classes(tmp_path / "images", {NAMES[0]: 30})
    with pytest.raises(UserError, match="The reference has 5 images, too few for prdc, which needs at least 6"):
        measured(world, images, tmp_path / "report", reference=str(reference))


def test_a_model_of_many_classes_draws_fewer_samples_than_it_has_classes(world, tmp_path):
    pipeline = tiny_pipeline(id2label=dict(enumerate(NAMES)))
    save_pipeline(pipeline, tmp_path / "model")
    how = {"model": str(tmp_path / "model"), "num_images": 20, "steps": 1}
    found, report = measured(world, None, tmp_path / "report", **how)
    assert found["images"] == 20 and "diversity" in found["not_measured"]
    assert "176 of the 196 classes have no sample and 20 of the 196 classes have a single sample." in report
