"""Stanford Cars has 196 classes: every script, launched one after the other on as many, some of one to three images.

Each class is one colour, so a mistaken order of the classes shows in the pixels of whatever is drawn.
"""

import csv
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from cardiff.markup import escape
from tests.support.without_project import run_without_project

pytestmark = pytest.mark.slow

MAKES = ("AM General", "Aston Martin", "BMW", "Dodge", "Ferrari", "Land Rover", "smart")
BODIES = ("Cab", "Coupe", "SUV", "Sedan")
MODELS = (1, 2, 3, 10, 20, 100, 911)
# In natural order, in which 2 comes before 10.
NAMES = [f"{make} {body} {model}" for make, body, model in itertools.product(MAKES, BODIES, MODELS)]
# (196, 3), in [0, 1]
COLOURS = np.array([[label % 6, label // 6 % 6, label // 36] for label in range(196)]) / 6 + 1 / 12
COUNTS = np.array([label % 4 + 1 if label % 7 == 0 else 5 for label in range(196)])

MODEL = [
    *("--unet.block_out_channels", "[32,64]", "--unet.norm_num_groups", "8", "--unet.layers_per_block", "1"),
    *("--unet.down_block_types", "[DownBlock2D,DownBlock2D]", "--unet.up_block_types", "[UpBlock2D,UpBlock2D]"),
    *("--unet.add_attention", "false", "--data.resolution", "8", "--scheduler.prediction_type", "v_prediction"),
    *("--train.max_steps", "800", "--train.batch_size", "64", "--train.learning_rate", "3e-3"),
    *("--train.lr_warmup_steps", "50", "--train.trackers", "[]", "--train.ema_decay", "0.98"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("many_classes")


@pytest.fixture
def data(folder):
    """A folder of class folders: every image is its class's colour with a little noise."""
    images = folder / "cars"
    if not images.exists():
        rng = np.random.default_rng(0)
        for name, colour, count in zip(NAMES, COLOURS, COUNTS):
            (images / name).mkdir(parents=True)
            for i in range(count):
                pixels = colour + rng.normal(0, 0.03, (8, 8, 3))
                Image.fromarray((255 * pixels).round().clip(0, 255).astype(np.uint8)).save(images / name / f"{i}.png")
    return images


@pytest.fixture
def runs(folder, data, launch):
    """The conditional run and its unconditional twin."""
    for kind in ("conditional", "unconditional"):
        output = folder / kind
        if not output.exists():
            launch(f"train_{kind}.py", *MODEL, "--data.path", data, "--output_dir", output)
    return folder / "conditional", folder / "unconditional"


def explained(colours: np.ndarray, labels: np.ndarray) -> float:
    """Share of the variance of the classes' colours that these colours (N, 3) of classes (N,) explain."""
    wanted = COLOURS[labels]
    return 1 - ((colours - wanted) ** 2).sum() / ((wanted - COLOURS.mean(0)) ** 2).sum()


def test_the_order_of_the_text_would_show():
    """The check itself: the order in which sorted JSON has the indices explains nothing."""
    in_text_order = np.array(sorted(range(196), key=str))
    assert explained(COLOURS, np.arange(196)) == 1
    assert explained(COLOURS, in_text_order) < 0.2


def test_a_run_knows_its_classes(runs):
    record = json.loads((runs[0] / "run.json").read_text())
    assert record["images"] == COUNTS.sum() and record["class_counts"] == COUNTS.tolist()
    names = json.loads((runs[0] / "model_index.json").read_text())["id2label"]
    assert [names[str(label)] for label in range(196)] == NAMES


def test_samples_have_the_colours_of_their_classes(runs, folder, launch):
    launch("sample.py", "--model", runs[0], "--num_images", 392, "--steps", 10, "--output", folder / "samples")
    entries = [json.loads(line) for line in (folder / "samples/manifest.jsonl").read_text().splitlines()]
    labels = np.array([entry["label"] for entry in entries])
    assert [entry["name"] for entry in entries] == [NAMES[label] for label in labels]
    assert (np.bincount(labels) == 2).all()
    drawn = np.stack([np.asarray(Image.open(folder / "samples" / entry["file"])) for entry in entries]) / 255
    assert explained(drawn.mean((1, 2)), labels) > 0.8


def test_a_class_is_asked_for_by_its_name_or_its_index(runs, folder, launch):
    labels = ["BMW Sedan 10", "AM General Cab 2", "index:150"]
    for turn, text in enumerate((",".join(labels), f"@{folder / 'labels.txt'}")):
        (folder / "labels.txt").write_text("\n".join(labels) + "\n")
        output = folder / f"asked{turn}"
        launch("sample.py", "--model", runs[0], "--labels", text, "--num_images", 3, "--steps", 2, "--output", output)
        entries = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
        assert [entry["name"] for entry in entries] == ["BMW Sedan 10", "AM General Cab 2", NAMES[150]]


def test_the_grid_of_all_classes_is_a_sheet(runs, folder, launch):
    launch("sample.py", "--model", runs[0], "--num_images", 392, "--steps", 10, "--grid", folder / "grid.png")
    width, height = Image.open(folder / "grid.png").size
    assert 0.4 < width / height < 2.5 and max(width, height) < 6000


def test_the_model_is_measured_and_compared_with_its_twin(runs, folder, data, launch):
    report = folder / "report"
    shared = ["--network", "pixels", "--metrics", "fid,kid,prdc,diversity", "--replicates", 20, "--steps", 5]
    launch("evaluate.py", "--model", runs[0], *shared, "--num_images", 392, "--output", report)
    found = json.loads((report / "metrics.json").read_text())
    assert [row["class"] for row in found["per_class"]] == NAMES
    assert found["protocol"]["reference"]["data"]["images"] == COUNTS.sum()

    comparison = folder / "comparison"
    launch(
        *("compare.py", *runs, *shared, "--guidance_scale", "1,2", "--num_images", 392, "--batch_size", 98),
        *("--halving_rounds", 1, "--output", comparison),
    )
    compared = json.loads((comparison / "comparison.json").read_text())
    base = {e["run"]: e for e in compared["settings"] if e["guidance_scale"] in (None, 1.0)}
    assert base["conditional"]["images"] == base["unconditional"]["images"] == 392
    text = (comparison / "report.md").read_text()
    assert "**conditional** (w = 1, dpm, 5 steps) against **unconditional** (dpm, 5 steps):" in text


def test_fewer_samples_than_classes_are_measured(runs, folder, launch):
    """And the report says of which classes nothing can be said."""
    for count in (40, 196):
        report = folder / f"few{count}"
        launch(
            *("evaluate.py", "--model", runs[0], "--network", "pixels", "--metrics", "fid,kid,prdc,diversity"),
            *("--num_images", count, "--steps", 2, "--replicates", 20, "--output", report),
        )
        rows = json.loads((report / "metrics.json").read_text())["per_class"]
        assert len(rows) == 196 and sum(row["images"] for row in rows) == count


def test_a_judge_reads_the_classes_that_were_asked_for(runs, folder, data, launch):
    """A classifier of 196 classes has them in the right order too."""
    judge = folder / "judge"
    options = [option.replace("--unet.", "--classifier.") for option in MODEL]
    for name in ("--classifier.up_block_types", "--classifier.add_attention", "--scheduler.prediction_type"):
        del options[options.index(name) : options.index(name) + 2]
    options += ["--classifier.attention_head_dim", "32", "--train.validation_fraction", "0", "--data.path", data]
    launch("train_classifier.py", *options, "--output_dir", judge)
    report = folder / "judged"
    launch(
        *("evaluate.py", "--images", data, "--reference", data, "--network", "pixels", "--metrics", "fid,accuracy"),
        *("--accuracy_classifier", judge, "--output", report, "--replicates", 20),
    )
    found = json.loads((report / "metrics.json").read_text())
    assert found["metrics"]["accuracy"]["value"] > 0.5  # by chance 1/196
    assert np.array(found["confusion"]).sum(1).tolist() == COUNTS.tolist()


def test_the_card_and_the_published_model(runs, folder, launch):
    """The table of the card, and the samples of what is loaded where the project is not installed."""
    launch("publish.py", "--model", runs[0], "--hub_model_id", "user/cars", "--output", folder / "preview")
    card = (folder / "preview/README.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (\d+) \|$", card, re.MULTILINE)
    assert rows == [(str(i), escape(name), str(n)) for i, (name, n) in enumerate(zip(NAMES, COUNTS))]
    run_without_project(
        f"""
import torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained({str(folder / "preview")!r}, trust_remote_code=True)
pipeline.set_progress_bar_config(disable=True)
names = list(pipeline.id2label.values())
pictures = pipeline(
    class_labels=names, num_inference_steps=50, output_type="pt", generator=torch.Generator().manual_seed(0)
).images
for name, colour in zip(names, pictures.mean((2, 3)).tolist()):
    print(*colour, name, sep=",", file=open("colours.csv", "a"))
""",
        folder,
    )
    read = list(csv.reader((folder / "colours.csv").read_text().splitlines()))
    assert [row[3] for row in read] == NAMES
    assert explained(np.array([row[:3] for row in read], float), np.arange(196)) > 0.8
