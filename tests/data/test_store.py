import io
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import cardiff.data.store
from cardiff.config.sections import DataConfig
from cardiff.data import UnreadableImage, open_store
from cardiff.errors import UserError
from cardiff.integrity import write_checksums

ROOT = Path(__file__).parents[2]
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})


def png(value, size=(4, 4)):
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, format="PNG")
    return buffer.getvalue()


def write_rows(path, images, labels, features=FEATURES):
    """A parquet file of encoded images, and the configuration that reads it into a cache beside it."""
    columns = {"image": [{"bytes": image, "path": None} for image in images], "label": labels}
    datasets.Dataset.from_dict(columns, features).to_parquet(path)
    return DataConfig(
        path="parquet", data_files=str(path), resolution=4, channels=1, cache_dir=str(path.parent / "cache")
    )


@pytest.fixture
def config(tmp_path):
    """100 images, each of one grey, its row; more than a few chunks."""
    return write_rows(tmp_path / "a.parquet", [png(row) for row in range(100)], [row % 2 for row in range(100)])


def expected_images(rows):
    return np.broadcast_to(np.array(rows, dtype=np.uint8)[:, None, None, None], (len(rows), 1, 4, 4))


def test_contents(config):
    store = open_store(config, conditional=True)
    assert len(store) == 100
    assert isinstance(store.images, np.memmap) and not store.images.flags.writeable
    assert store.images.dtype == np.uint8 and store.labels.dtype == np.int64
    np.testing.assert_array_equal(store.images, expected_images(range(100)))
    np.testing.assert_array_equal(store.labels, np.arange(100) % 2)
    assert store.class_names == ["ant", "bee"] and store.skipped == []
    files = sorted(os.listdir(Path(config.cache_dir) / store.key))
    assert files == [".verified.json", "checksums.json", "images.npy", "labels.npy", "meta.json"]


def test_opening_again_decodes_nothing(config, monkeypatch):
    first = open_store(config, conditional=True)
    monkeypatch.setattr(cardiff.data.store, "decode_image", None)
    again = open_store(config, conditional=False)  # the same store serves both
    assert again.key == first.key
    np.testing.assert_array_equal(again.images, first.images)


def test_pickling_maps_the_same_file(config):
    store = open_store(config, conditional=True)
    data = pickle.dumps(store)
    assert len(data) < 1000 < store.images.nbytes
    np.testing.assert_array_equal(pickle.loads(data).images, store.images)


def test_cache_folder_of_the_environment(config, tmp_path, monkeypatch):
    monkeypatch.setenv("CARDIFF_CACHE", str(tmp_path / "elsewhere"))
    store = open_store(replace(config, cache_dir=None), conditional=True)
    assert (tmp_path / "elsewhere" / store.key / "images.npy").exists()


def test_without_labels(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"image": [{"bytes": png(3), "path": None}]}
    datasets.Dataset.from_dict(columns, datasets.Features({"image": datasets.Image()})).to_parquet(path)
    config = DataConfig(
        path="parquet", data_files=str(path), resolution=4, channels=1, cache_dir=str(tmp_path / "cache")
    )
    store = open_store(config, conditional=False)
    assert store.labels is None and store.class_names == [] and len(store) == 1
    with pytest.raises(UserError, match="data.label_column 'label' is not a column of parquet"):
        open_store(config, conditional=True)


def test_key_follows_preprocessing(config):
    changes = [
        {},
        {"resolution": 3},
        {"channels": 3},
        {"fit": "stretch"},
        {"fit": "pad"},
        {"upscale": True},
        {"label_column": "other"},
        {"split": "train[:50]"},
    ]
    keys = [open_store(replace(config, **change), conditional=False).key for change in changes]
    assert len(set(keys)) == len(changes)
    # What does not reach the pixels does not lead to another store.
    for change in ({"horizontal_flip": False}, {"box_margin": 0.5}, {"on_error": "skip"}, {"num_workers": 3}):
        assert open_store(replace(config, **change), conditional=False).key == keys[0]


def test_key_follows_data(config, tmp_path):
    before = open_store(config, conditional=True)
    write_rows(tmp_path / "a.parquet", [png(9)] * 2, [0, 1])
    after = open_store(config, conditional=True)
    assert after.key != before.key
    np.testing.assert_array_equal(after.images, expected_images([9, 9]))


def test_labels_from_one(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    config = write_rows(tmp_path / "a.parquet", [png(row) for row in range(3)], [1, 2, 1], features)
    with pytest.raises(UserError, match="set data.first_label to the number of the first class, such as 1"):
        open_store(config, conditional=True)
    store = open_store(replace(config, first_label=1), conditional=True)
    assert store.class_names == ["1", "2"] and store.labels.tolist() == [0, 1, 0]
    # Part of the key only where it is set, so that it leaves the keys of other stores alone.
    assert json.loads((store.folder / "meta.json").read_text())["settings"]["first_label"] == 1
    plain = open_store(config, conditional=False)
    assert plain.key != store.key and plain.labels.tolist() == [1, 2, 1]
    assert "first_label" not in json.loads((plain.folder / "meta.json").read_text())["settings"]

    zero = write_rows(tmp_path / "b.parquet", [png(row) for row in range(3)], [1, 0, 2], features)
    with pytest.raises(UserError, match=r"1 rows .* have no valid label, first row 1 with 0 outside 1 to 2: correct"):
        open_store(replace(zero, first_label=1), conditional=True)


BAD = {3: b"not an image", 40: png(40)[:-30], 99: b""}


@pytest.fixture
def faulty(tmp_path):
    images = [BAD.get(row, png(row)) for row in range(100)]
    return write_rows(tmp_path / "a.parquet", images, [row % 2 for row in range(100)])


def test_unreadable_image_stops_the_build(faulty):
    with pytest.raises(UnreadableImage, match=r"^row 3 of split 'train' cannot be read \(not an image of"):
        open_store(faulty, conditional=True)
    assert [path.suffix for path in Path(faulty.cache_dir).iterdir()] == [".lock"]


def test_unreadable_images_are_skipped_and_listed(faulty, caplog):
    lenient = replace(faulty, on_error="skip")
    good = [row for row in range(100) if row not in BAD]
    with caplog.at_level(logging.WARNING):
        built = open_store(lenient, conditional=True)
    assert len(caplog.records) == 1
    assert caplog.messages[0].startswith("3 of 100 images of parquet cannot be read and are skipped, first row 3 of")
    for store in (built, open_store(lenient, conditional=True)):
        np.testing.assert_array_equal(store.images, expected_images(good))
        np.testing.assert_array_equal(store.labels, np.array(good) % 2)
        assert [entry["row"] for entry in store.skipped] == list(BAD)
        assert store.skipped[0] == {
            "row": 3,
            "name": "row 3 of split 'train'",
            "reason": "not an image of a known format",
        }
    assert len(caplog.records) == 1
    assert json.loads((built.folder / "meta.json").read_text())["skipped"] == built.skipped
    # A strict run does not accept the lenient run's store.
    with pytest.raises(UnreadableImage, match="row 3 of split 'train' cannot be read"):
        open_store(faulty, conditional=True)


def test_path_of_an_unreadable_image(tmp_path):
    (tmp_path / "animals" / "ant").mkdir(parents=True)
    (tmp_path / "animals" / "ant" / "x.png").write_bytes(b"")
    (tmp_path / "animals" / "bee").mkdir()
    (tmp_path / "animals" / "bee" / "y.png").write_bytes(b"")
    config = DataConfig(path=str(tmp_path / "animals"), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UnreadableImage, match=r"animals/ant/x.png \(row 0 of split 'train'\) cannot be read"):
        open_store(config, conditional=True)
    with pytest.raises(UserError, match="No image of .*animals can be read .the first: "):
        open_store(replace(config, on_error="skip"), conditional=True)


def test_small_image_is_named(config):
    with pytest.raises(UserError, match=r"row 0 of split 'train' is 4x4 pixels .*: set data.upscale: true"):
        open_store(replace(config, resolution=5, on_error="skip"), conditional=True)


@pytest.mark.parametrize(
    "labels, feature, sentence",
    [
        (
            [0, -1, 1],
            "int64",
            r"1 rows of split 'train' of parquet have no valid label, first row 1 with -1",
        ),
        ([0, 1, None], "int64", r"1 rows of split 'train' of parquet have no valid label, first row 2 with -1"),
        ([5, 0, 2], "int64", r"3 of the 6 classes of parquet have no image in split 'train' \('1', '3', '4'\)"),
        ([9, 0, 0], "int64", r"8 of the 10 classes of parquet have no image in split 'train' \('1', '2', '3', …\)"),
        (["a", None, "b"], "string", r"1 rows of split 'train' of parquet have no valid label, first row 1 with -1"),
    ],
)
def test_bad_labels(tmp_path, monkeypatch, labels, feature, sentence):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(feature)})
    config = write_rows(tmp_path / "a.parquet", [png(row) for row in range(3)], labels, features)
    with monkeypatch.context() as patch:
        patch.setattr(cardiff.data.store, "decode_image", None)  # found before any image is decoded
        with pytest.raises(UserError, match=sentence):
            open_store(config, conditional=True)
    assert len(open_store(config, conditional=False)) == 3
    with pytest.raises(UserError, match=sentence):  # found in the existing store as well
        open_store(config, conditional=True)


def test_class_that_skipping_empties(tmp_path):
    config = write_rows(tmp_path / "a.parquet", [png(1), b"", b""], [0, 0, 1])
    with pytest.raises(UserError, match=r"1 of the 2 classes of parquet have no image in split 'train' \('bee'\)"):
        open_store(replace(config, on_error="skip"), conditional=True)


def test_row_of_a_bad_label_counts_the_skipped(tmp_path):
    config = write_rows(tmp_path / "a.parquet", [png(1), b"", png(2), png(3)], [0, 1, 1, -1])
    config.on_error = "skip"
    assert open_store(config, conditional=False).labels.tolist() == [0, 1, -1]
    with pytest.raises(UserError, match="first row 3 with -1"):
        open_store(config, conditional=True)


def test_empty_set(tmp_path):
    config = write_rows(tmp_path / "a.parquet", [], [])
    datasets.Dataset.from_dict({"image": [], "label": []}, FEATURES).save_to_disk(tmp_path / "saved")
    for empty in (config, replace(config, path=str(tmp_path / "saved"), data_files=None)):
        with pytest.raises(UserError, match="data.split 'train' of .* is empty: choose a split that has images."):
            open_store(empty, conditional=False)


def test_missing_boxes(config):
    with pytest.raises(UserError, match="data.box_column 'bbox' is not a column of parquet"):
        open_store(replace(config, crop_to_box=True), conditional=False)


def truncate(folder):
    os.truncate(folder / "images.npy", 500)


def truncate_labels(folder):
    np.save(folder / "labels.npy", np.zeros(7, dtype=np.int64))


def empty_meta(folder):
    (folder / "meta.json").write_text("")


def remove_images(folder):
    (folder / "images.npy").unlink()


def zero_images(folder):
    with open(folder / "images.npy", "r+b") as file:
        file.seek(5000)
        file.write(bytes(1000))


def exchange_labels(folder):
    np.save(folder / "labels.npy", 1 - np.load(folder / "labels.npy"))


def rename_class(folder):
    text = (folder / "meta.json").read_text()
    (folder / "meta.json").write_text(text.replace('"bee"', '"eel"'))


def without_checksums(folder):
    """As an earlier version built it."""
    (folder / "checksums.json").unlink()


def crafted(**changes):
    """Wrong types under the right checksums."""

    def craft(folder):
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps({**meta, **changes}))
        write_checksums(folder)

    return craft


def crafted_labels(folder):
    np.save(folder / "labels.npy", np.zeros(100))
    write_checksums(folder)


def crafted_images(folder):
    np.save(folder / "images.npy", np.load(folder / "images.npy").astype(np.float32))
    write_checksums(folder)


def deep(folder):
    (folder / "meta.json").write_text("[" * 100_000)
    write_checksums(folder)


DAMAGES = [truncate, truncate_labels, empty_meta, remove_images, zero_images, exchange_labels, rename_class]
DAMAGES += [without_checksums, crafted(shape=None), crafted(class_names=3), crafted(class_names=[1, 2])]
DAMAGES += [crafted(skipped=[1]), crafted(skipped={}, shape="x"), crafted_labels, crafted_images, deep]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_store_is_built_again(config, caplog, damage):
    damage(open_store(config, conditional=True).folder)
    with caplog.at_level(logging.WARNING):
        store = open_store(config, conditional=True)
    assert [message.endswith("earlier version, and is built again.") for message in caplog.messages] == [True]
    assert store.class_names == ["ant", "bee"] and store.skipped == []
    np.testing.assert_array_equal(store.images, expected_images(range(100)))
    np.testing.assert_array_equal(store.labels, np.arange(100) % 2)


@pytest.mark.parametrize("times", [1, 2, 9])
def test_a_cache_that_is_cleared_meanwhile(config, times, monkeypatch):
    """By somebody who makes room: the images are decoded again, or it is said what happens."""
    write, cleared = cardiff.data.store._write_images, []

    def clear_and_write(dataset, config, path):
        if len(cleared) < times:
            cleared.append(path)
            shutil.rmtree(config.cache_dir)
        return write(dataset, config, path)

    monkeypatch.setattr(cardiff.data.store, "_write_images", clear_and_write)
    if times < 3:
        np.testing.assert_array_equal(open_store(config, conditional=True).images, expected_images(range(100)))
    else:
        with pytest.raises(UserError, match="cache was cleared while images were being decoded into it: run the same"):
            open_store(config, conditional=True)


def test_full_disk(config, monkeypatch):
    monkeypatch.setattr(cardiff.data.store, "open", lambda path, mode: open("/dev/full", mode), raising=False)
    with pytest.raises(UserError, match=r"^The cache .*cache is full \(0.10 GiB are needed\): set data.cache_dir or"):
        open_store(replace(config, resolution=1036, upscale=True), conditional=True)
    assert [path.suffix for path in Path(config.cache_dir).iterdir()] == [".lock"]


def test_cache_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="^The cache .*file/cache cannot be written: set data.cache_dir"):
        open_store(replace(config, cache_dir=str(tmp_path / "file" / "cache")), conditional=True)


# Builds slowly enough to be caught in the middle, and prints how many images it decoded.
BUILD = """
import json, sys, time
import cardiff.data.store as store
from cardiff.config.sections import DataConfig
decode, count = store.decode_image, []
def slow(*arguments):
    count.append(1)
    time.sleep(0.02)
    return decode(*arguments)
store.decode_image = slow
print(store.open_store(DataConfig(**json.loads(sys.argv[1])), conditional=True).images.sum(), len(count))
"""


def start_build(config):
    """Starts a process that builds the store of `config`, and returns when it has begun to decode."""
    arguments = [sys.executable, "-c", BUILD, json.dumps(vars(config))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(Path(config.cache_dir).glob(".writing-*/images.npy")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def test_two_processes_build_once(config, monkeypatch):
    process = start_build(config)
    monkeypatch.setattr(cardiff.data.store, "decode_image", None)
    store = open_store(config, conditional=True)  # waits for the other
    np.testing.assert_array_equal(store.images, expected_images(range(100)))
    assert process.communicate(timeout=60)[0].split() == [str(store.images.sum()), "100"]


def test_killed_build_leaves_nothing(config, tmp_path):
    greys = [row % 256 for row in range(2000)]
    slow = write_rows(tmp_path / "slow.parquet", [png(grey) for grey in greys], [row % 2 for row in range(2000)])
    cache = Path(slow.cache_dir)
    process = start_build(slow)
    open_store(config, conditional=True)  # removes leftovers, but not those of a build under way
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list(cache.glob(".writing-*"))) == 1 and len(list(cache.glob("*/meta.json"))) == 1

    # The leftover of a configuration that is not run again goes as well.
    shutil.copytree(next(cache.glob(".writing-*")), cache / ".writing-other")
    np.testing.assert_array_equal(open_store(slow, conditional=True).images, expected_images(greys))
    assert not list(cache.glob(".writing-*"))
