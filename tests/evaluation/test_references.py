"""What images are measured against: data sets, stored and streamed, and exported statistics."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import save_file

from cardiff.config.sections import DataConfig
from cardiff.errors import UserError
from cardiff.evaluation.evaluate import run
from cardiff.evaluation.features import extraction as features_module
from cardiff.evaluation.features import networks
from cardiff.evaluation.features.networks import load_network
from cardiff.evaluation.features.statistics import import_reference
from cardiff.evaluation.protocol import Protocol
from tests.support.reports import metrics_of, values


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


def test_of_a_larger_set_a_random_part_is_the_reference(world, options):
    """Not its beginning, which is one class in a set that is sorted."""
    found = metrics_of(run(replace(options, images=str(world["held_out"].with_suffix("")), max_images=24)))
    data = found["protocol"]["reference"]["data"]
    assert data["images"] == 24 and data["chosen_of"] == 60
    shares = [row["share_of_the_data"] for row in found["per_class"]]
    assert sum(share > 0 for share in shares) > 8 and max(shares) < 0.4 and sum(shares) == pytest.approx(1)


def test_the_part_has_every_image_once_and_its_own_label(world, options):
    reference = Protocol(replace(options, max_images=24), 8, 1, 16).reference
    images = np.asarray(reference.images, float)
    assert len(np.unique(images.reshape(24, -1), axis=0)) == 24
    lines = np.concatenate([images.mean((1, 2)), images.mean((1, 3))[:, :4]], 1)  # the bright one tells the class
    np.testing.assert_array_equal(lines.argmax(1), reference.labels)
    assert reference.record["data"]["chosen_of"] == 60 and reference.count == 24


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


def test_the_record_of_the_data_has_no_folders():
    config = DataConfig(
        path="parquet", data_files=["/home/someone/a.parquet", "/home/someone/b.parquet"], split="test"
    )
    record = features_module.data_record(config, "123", 7)
    assert record["data_files"] == ["a.parquet", "b.parquet"] and "someone" not in json.dumps(record)
    assert (record["path"], record["split"], record["images"], record["pixels_key"]) == ("parquet", "test", 7, "123")
    one = features_module.data_record(replace(config, path="/home/someone/cats", data_files="/x/a.parquet"), "123", 7)
    assert one["path"] == "cats" and one["data_files"] == ["a.parquet"]


def test_features_that_are_no_numbers_are_refused(world, options, monkeypatch):
    """Neither cached nor measured: of a network of which a weight is damaged, say."""

    def forward(images):
        features = images.flatten(1) / 255
        features[3, 5] = torch.nan
        return features, None

    monkeypatch.setattr(networks, "_pixels", forward)
    with pytest.raises(UserError, match="pixels gives numbers that are not finite for some of the images"):
        Protocol(replace(options, max_images=59), 8, 1, 16)


# Statistics


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


def test_exported_labels_come_back(world, options, tmp_path):
    """By them the classes of a model are drawn as often as in the data."""
    options = replace(options, export_reference=str(tmp_path / "statistics.safetensors"))
    reference = Protocol(options, 8, 1, 16).reference
    again = import_reference(tmp_path / "statistics.safetensors", load_network("pixels", device=torch.device("cpu")))
    np.testing.assert_array_equal(again.labels, reference.labels)
    np.testing.assert_array_equal(again.features, reference.features)
    assert again.class_names == reference.class_names and again.record == reference.record
    np.testing.assert_array_equal(again.gaussian.covariance, reference.gaussian.covariance)


def test_statistics_of_another_network_are_refused(world, options, tmp_path):
    file = tmp_path / "statistics.safetensors"
    images = str(world["held_out"].with_suffix(""))
    run(replace(options, images=images, export_reference=str(file)))
    with pytest.raises(UserError, match="made with another network or preprocessing"):
        run(replace(options, images=images, reference=str(file), network=str(world["judge"])))


def test_statistics_of_the_same_kind_of_network_are_told_apart(world, options, tmp_path):
    """By every value of its record: other weights, another resizing."""
    file = tmp_path / "statistics.safetensors"
    network = Protocol(replace(options, export_reference=str(file)), 8, 1, 16).network
    other = replace(network, record={**network.record, "range": "-1 to 1"})
    with pytest.raises(UserError, match=r"\(range is 0 to 1 there and -1 to 1 here\): give that network"):
        import_reference(file, other)


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


def test_a_file_that_does_not_say_what_its_statistics_are_of_is_refused(world, options, tmp_path):
    record = json.dumps({"network": {"kind": "pixels", "range": "0 to 1"}, "data": {}})
    file = tmp_path / "bad.safetensors"
    save_file({"mean": np.zeros(64), "covariance": np.eye(64)}, file, metadata={"cardiff_reference": record})
    with pytest.raises(UserError, match="does not say of which data its statistics are"):
        run(replace(options, images=str(world["held_out"].with_suffix("")), reference=str(file), metrics="fid"))


def test_import_needs_statistics(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as reference statistics"):
        import_reference(tmp_path / "bad.safetensors", load_network("pixels", device=torch.device("cpu")))


# Streams


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
