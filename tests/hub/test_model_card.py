"""The card says what the folder and the reports say, and nothing that a class is called breaks it."""

import html
import json
import re

import markdown
import pytest
import torch
from diffusers import DDPMPipeline
from huggingface_hub import ModelCard
from PIL import Image

from cardiff.diffusion.networks import build_pipeline
from cardiff.errors import UserError
from cardiff.hub.model_card import write_card
from cardiff.hub.provenance import write_record
from cardiff.hub.serialization import save_classifier, save_pipeline
from cardiff.schedulers import CosineScheduler, LinearScheduler
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import tiny_pipeline, tiny_unet

RUN = {
    **{"kind": "conditional", "step": 600, "images_seen": 38400, "seconds": 139.2, "hardware": "CPU", "processes": 2},
    **{"precision": "bf16", "versions": {"torch": "2.14.1"}, "images": 1797, "class_counts": [178, 1000, 619]},
    "config": {
        "data": {"path": "owner/cats", "split": "train", "resolution": 8, "fit": "pad", "horizontal_flip": True},
        "unet": {"dropout": 0.1},
        "scheduler": {"name": "cosine", "s": 0.008},
        "train": {"batch_size": 64, "ema_decay": 0.99},
    },
}
RUN["config"]["data"] |= {"data_files": None, "license": "CC BY 4.0"}
METRICS = {
    "images": 1000,
    "seeds": [0, 1],
    "metrics": {"fid": {"value": 12.5, "low": 11.0, "high": 14.0}, "recall": {"value": 0.25, "low": 0.2, "high": 0.3}},
    "held_out": {"fid": {"value": 3.5}},
    "memorisation": {"sentence": "4 of 1000 are too near."},
    "sampling": {"solver": "dpm", "steps": 25, "guidance_scale": 1.5},
    "protocol": {
        "distance": "FID",
        "network": {"kind": "inception", "file": "/home/someone/inception.pt"},
        "reference": {"data": {"path": "owner/cats", "split": "train", "images": 1797}},
    },
}


@pytest.fixture
def folder(tmp_path):
    save_pipeline(tiny_pipeline(), tmp_path)
    return tmp_path


def card_of(folder, **more):
    write_card(folder, "user/cats", **more)
    return ModelCard.load(folder / "README.md")


def test_what_the_hub_reads(folder):
    write_record(folder, RUN)
    data = card_of(folder, license="mit", metrics=METRICS).data
    assert (data.license, data.library_name, data.datasets) == ("mit", "diffusers", ["owner/cats"])
    assert data.pipeline_tag == "unconditional-image-generation" and "classifier-free-guidance" in data.tags
    found = {result.metric_type: result for result in data.eval_results}
    assert found["fid"].metric_value == 12.5 and found["recall"].metric_value == 0.25
    assert found["fid"].dataset_name == "owner/cats" and found["fid"].dataset_split == "train"
    expected = {"images": 1000, "reference_images": 1797, "solver": "dpm", "steps": 25, "guidance_scale": 1.5}
    assert found["fid"].metric_args == expected | {"seeds": [0, 1]}


def test_only_the_networks_own_distance_is_called_fid(folder):
    protocol = {**METRICS["protocol"], "distance": "pixel-FD", "network": {"kind": "pixels"}}
    card = card_of(folder, metrics={**METRICS, "protocol": protocol})
    assert {result.metric_type for result in card.data.eval_results} == {"pixel-fd", "recall"}
    assert "| pixel-FD | 12.5 | 11.0 to 14.0 | 3.50 |" in card.text


def test_what_a_person_reads(folder):
    write_record(folder, RUN)
    Image.new("L", (8, 8)).save(folder / "samples.png")
    text = card_of(folder, license="mit", metrics=METRICS, revision="small").text
    log_snr = torch.logit(CosineScheduler().alphas_cumprod.double())
    for said in (
        "![Samples](samples.png)",
        'DiffusionPipeline.from_pretrained("user/cats", revision="small", trust_remote_code=True)',
        "owner/cats, split train: 1,797 images, padded to a square and resized to 8 pixels, each flipped",
        "Licence of the images: CC BY 4.0.",
        "Licence of the weights: mit.",
        "**cosine**: `s` 0.008.",
        f"falls from {log_snr[0]:.2f} to {log_snr[-1]:.2f} in 1000 steps",
        "600 optimizer steps of 64 images, 38,400 images in all, in 2 min on 2 × CPU, precision `bf16`",
        "accelerate launch train_conditional.py",
        "| FID | 12.5 | 11.0 to 14.0 | 3.50 |",
        "in the features of inception \\(inception.pt\\)",
        "4 of 1000 are too near.",
        "| 1 | bee | 1000 |",
        "178 to 1000 images",
        "With only 1,797 training images",
    ):
        assert said in text, said
    assert "someone" not in text


BASE = {"name": "google/ddpm-cifar10-32", "revision": "0123abc", "license": "apache-2.0", "weights_sha256": "00"}


def test_what_it_started_from(folder):
    """The Hub draws its family tree from base_model; the licence goes on unless another is given."""
    write_record(folder, {**RUN, "base_model": BASE})
    card = card_of(folder)
    assert (card.data.base_model, card.data.license) == ("google/ddpm-cifar10-32", "apache-2.0")
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    said = "It started from the weights of google/ddpm-cifar10-32 (revision `0123abc`), licence apache-2.0."
    assert said in card.text
    assert "Licence of the weights: apache-2.0, that of the model that they started from." in card.text
    assert "--output_dir runs/cats --init_from google/ddpm-cifar10-32\n" in card.text
    card = card_of(folder, license="mit")
    assert card.data.license == "mit" and "Licence of the weights: mit." in card.text


def test_what_it_started_from_may_be_a_folder_of_any_name(folder):
    name = "my `model` *of* $cars$"
    write_record(folder, {**RUN, "base_model": {**BASE, "name": name, "revision": None, "license": None}})
    card = card_of(folder)
    assert card.data.base_model is None and card.data.license is None
    page = markdown.markdown(card.text, extensions=["tables", "fenced_code"])
    assert f"It started from the weights of {name}, whose licence is not stated." in html.unescape(page)
    assert page.count("<pre>") == 3


def test_the_table_of_twelve_classes(tmp_path):
    """In the order of the indices, whatever that of the files is."""
    names = {i: f"class {i}" for i in range(12)}
    save_pipeline(tiny_pipeline(id2label=names), tmp_path / "model")
    save_classifier(tiny_classifier(num_classes=12, id2label=names), CosineScheduler().to_stock(), tmp_path / "reader")
    for folder in (tmp_path / "model", tmp_path / "reader"):
        write_record(folder, {**RUN, "class_counts": list(range(100, 112))})
        rows = [f"| {i} | class {i} | {100 + i} |" for i in range(12)]
        assert "\n".join(rows) in card_of(folder).text


def test_what_is_not_known_is_said_to_be_unknown(folder):
    text = card_of(folder).text
    for said in (
        "The training data is not recorded.",
        "not stated",
        "Not evaluated.",
        "Memorisation was not evaluated",
    ):
        assert said in text, said
    assert "samples.png" not in text


def test_an_evaluation_made_while_training(folder):
    best = {"distance": {"value": 2.0, "low": 1.5, "high": 2.5}, "images": 500, "steps": 25}
    best["protocol"] = {"distance": "pixel-FD", "network": {"kind": "pixels"}}
    assert "pixel-FD 2.00 (1.50 to 2.50) in the features of pixels" in card_of(folder, best=best).text


def test_the_other_kinds(tmp_path):
    save_pipeline(DDPMPipeline(tiny_unet(None), CosineScheduler().to_stock()), tmp_path / "unconditional")
    card = card_of(tmp_path / "unconditional")
    assert "DDPMPipeline.from_pretrained" in card.text and "trust_remote_code=True" not in card.text
    assert "## Classes" not in card.text and "class-conditional" not in card.data.tags
    assert "`DDIMScheduler`, `EulerDiscreteScheduler`, created from it with `from_config`" in card.text
    save_classifier(tiny_classifier(), CosineScheduler().to_stock(), tmp_path / "classifier")
    levels = [{"timestep": 9, "log_snr": -3.25, "accuracy": 0.5, "cross_entropy": 1.5}]
    report = {"chance": 0.1, "clean": {"accuracy": 0.96, "images": 180}, "levels": levels}
    write_record(tmp_path / "classifier", {**RUN, "kind": "classifier", "report": report})
    card = card_of(tmp_path / "classifier")
    assert card.data.pipeline_tag == "image-classification" and "AutoModel.from_pretrained" in card.text
    assert "held out from training: 96.0%" in card.text and "| -3.2 | 50.0% | 1.500 |" in card.text


def test_names_with_dollars_are_no_mathematics(tmp_path):
    save_pipeline(tiny_pipeline(id2label={0: "Ba$$in", 1: "$x$", 2: "cat"}), tmp_path)
    text = card_of(tmp_path).text
    assert "$" not in text.split("## Classes")[1]
    assert "<td>Ba$$in</td>" in markdown.markdown(text, extensions=["tables"]).replace("&#36;", "$")


@pytest.mark.parametrize(("channels", "colours"), [(1, "grey"), (3, "RGB")])
def test_the_colours_of_its_images(channels, colours, tmp_path):
    save_pipeline(tiny_pipeline(channels=channels), tmp_path)
    assert f"generates 8×8 {colours} images of 3 classes" in card_of(tmp_path).text


@pytest.mark.parametrize("count", [60, 61])
def test_many_classes_are_folded_away(count, tmp_path):
    names = [f"class {i}" for i in range(count)]
    save_pipeline(build_pipeline(tiny_unet(count), CosineScheduler().to_stock(), names), tmp_path)
    text = card_of(tmp_path).text.split("## Classes")[1]
    assert (f"<details><summary>{count} classes</summary>" in text) == (count > 60)
    assert text.count("| class ") == count + 1  # all are there either way, and the head


HOSTILE = ["<script>alert(1)</script>", "a | b\n\n# heading", "```\n[x](http://y) `z`"]


def test_names_of_classes_cannot_break_the_card(tmp_path):
    save_pipeline(build_pipeline(tiny_unet(3), CosineScheduler().to_stock(), HOSTILE), tmp_path)
    text = card_of(tmp_path).text
    rows = [line for line in text.splitlines() if line.startswith(("| 0 |", "| 1 |", "| 2 |"))]
    assert len(rows) == 3
    assert all(len(row.split("|")) == 4 for row in rows)
    assert "<script>" not in text.replace(json.dumps(HOSTILE[0]), "") and "\n# heading" not in text
    assert text.count("```") % 2 == 0
    save_pipeline(build_pipeline(tiny_unet(3), CosineScheduler().to_stock(), HOSTILE[::-1]), tmp_path)
    block = card_of(tmp_path).text.split("```python")[1].split("```")[0]
    compile(block, "card", "exec")
    assert "class_labels=[0]" in block


@pytest.mark.parametrize("zero", [False, True])
def test_the_plot_of_the_schedule(zero, tmp_path):
    schedule = LinearScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=zero).to_stock()
    save_pipeline(tiny_pipeline(schedule), tmp_path)
    assert ("pure noise" in card_of(tmp_path).text) == zero
    with Image.open(tmp_path / "schedule.png") as picture:
        assert picture.width > 800 and len(picture.convert("RGB").getcolors(10**6)) > 10


def test_what_a_foreign_record_says_cannot_break_the_card(folder):
    """Every text of run.json, in turn, ends blocks of code and begins HTML."""
    bad = "```\n\n<script>alert(1)</script>\n\n# heading `"
    run = {**RUN, "hardware": bad, "precision": bad, "versions": {bad: bad}, "config": dict(RUN["config"])}
    data = {**RUN["config"]["data"], "path": bad, "split": bad, "license": bad, bad: bad}
    run["config"] |= {"data": data, "scheduler": {"name": bad, bad: bad}}
    write_record(folder, run)
    page = markdown.markdown(card_of(folder).text, extensions=["tables", "fenced_code", "md_in_html"])
    assert "<script>" not in page
    assert not [line for line in page.splitlines() if re.match("<h.>heading", line)]


DAMAGES = [
    ({"kind": "../evil"}, "kind is '../evil'"),
    ({"step": "600"}, "wrong type"),
    ({"config": {}}, "KeyError"),
    ({"class_counts": [1]}, "no card can be made"),
    ({"class_counts": [1] * 4}, "no card can be made"),
    ({"hardware": None}, "wrong type"),
    ({"config": {"data": {}, "scheduler": [1], "train": {}}}, "was not written by this project"),
]


@pytest.mark.parametrize("damage, said", DAMAGES)
def test_a_record_of_another_projects_making_is_one_sentence(folder, damage, said):
    write_record(folder, {**RUN, **damage})
    with pytest.raises(UserError, match="run.json") as raised:
        card_of(folder)
    assert said in str(raised.value) and "\n" not in str(raised.value)
