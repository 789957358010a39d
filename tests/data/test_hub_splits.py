"""Data sets on the Hub, of which only the files of the splits that are asked for are fetched."""

import io
import json
import re
import shutil

import datasets
import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from cardiff.config.sections import DataConfig
from cardiff.data import load_source, source_fingerprint
from cardiff.errors import UserError
from tests.support.hub_server import HubServer

SPLITS = {"train": 6, "test": 4, "contrast": 2}
"""The splits of the repository and their numbers of images."""
COLOURS = {"train": 10, "test": 20, "contrast": 30}
NAMES = ["coupé", "saloon"]


def picture(grey):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), grey).save(buffer, format="PNG")
    return buffer.getvalue()


def parquet(split, rows, folder=""):
    """The file of a split: image i has the grey `COLOURS[split]` + i and the label i mod 2, without names."""
    path = f"{folder}{split}"  # no two files are equal: the client would fetch only one of them
    images = [{"bytes": picture(COLOURS[split] + i), "path": path} for i in range(rows)]
    table = datasets.Dataset.from_dict({"image": images, "label": [i % 2 for i in range(rows)]})
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return {f"{folder}data/{split}-00000-of-00001.parquet": buffer.getvalue()}


def card(*configurations, splits=SPLITS):
    """A README that records the features, with the names of the classes, and the sizes of the splits."""
    lines = ["---", "dataset_info:"]
    for name in configurations:
        lines += [
            f"- config_name: {name}",
            "  features:",
            "  - {name: image, dtype: image}",
            f"  - {{name: label, dtype: {{class_label: {{names: {{'0': {NAMES[0]}, '1': {NAMES[1]}}}}}}}}}",
            "  splits:",
            *(f"  - {{name: {split}, num_bytes: {10**15}, num_examples: {rows}}}" for split, rows in splits.items()),
            f"  download_size: {10**15}",
            f"  dataset_size: {10**15}",
        ]
    lines.append("configs:")
    for name in configurations:
        folder = "" if name == "default" else f"{name}/"
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [f"  - {{split: {split}, path: {folder}data/{split}-*}}" for split in SPLITS]
    return "\n".join([*lines, "---", ""]).encode()


def repository(*configurations, **options):
    files = {"README.md": card(*configurations, **options)}
    for name in configurations:
        for split, rows in SPLITS.items():
            files |= parquet(split, rows, "" if name == "default" else f"{name}/")
    return files


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub with user/cars; the caches are empty."""
    with HubServer() as server:
        server.redirect(monkeypatch, tmp_path / "home")
        monkeypatch.chdir(tmp_path)  # no folder here is called user
        for name, value in [
            ("HF_ENDPOINT", server.url),
            ("HF_HUB_OFFLINE", False),
            ("HF_DATASETS_CACHE", tmp_path / "home/datasets"),
            ("DOWNLOADED_DATASETS_PATH", tmp_path / "home/datasets/downloads"),
            ("USE_PARQUET_EXPORT", False),  # of another host
            ("HF_UPDATE_DOWNLOAD_COUNTS", False),
        ]:
            monkeypatch.setattr(datasets.config, name, value)
        server.add("datasets/user/cars", repository("default"))
        yield server
        huggingface_hub.utils.close_session()


@pytest.fixture
def offline(monkeypatch):
    """A function after which the Hub cannot be reached."""
    return lambda: monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def fetched(hub):
    """The data files whose content was read since the last call, each once."""
    paths = [request.path for request in hub.requests if request.method == "GET"]
    hub.clear()
    found = [re.search(r"/resolve/\w+/(.*)data/(\w+)-.*parquet$", path) for path in paths]
    return sorted(match[1] + match[2] for match in found if match)


def greys(source):
    return [int(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))[0, 0]) for row in source]


def expected(split, rows=None):
    return [COLOURS[split] + i for i in range(SPLITS[split] if rows is None else rows)]


def test_only_the_files_of_the_split_are_fetched(hub):
    config = DataConfig(path="user/cars")
    source = load_source(config, conditional=True)
    assert fetched(hub) == ["train"]
    assert source.features["label"].names == NAMES and source["label"][:] == [0, 1] * 3
    assert greys(source) == expected("train")

    again = load_source(config)
    assert fetched(hub) == [] and greys(again) == expected("train")
    assert source_fingerprint(config, source) == source_fingerprint(config, again)

    other = load_source(DataConfig(path="user/cars", split="test"), conditional=True)
    assert fetched(hub) == ["test"]
    assert other.features["label"].names == NAMES and greys(other) == expected("test")


@pytest.mark.parametrize(
    "split, files, pixels",
    [
        ("train[:50%]", ["train"], expected("train", 3)),
        ("train[1:]", ["train"], expected("train")[1:]),
        ("train+test", ["test", "train"], expected("train") + expected("test")),
        ("test+train[:1]", ["test", "train"], expected("test") + expected("train", 1)),
        ("train[:2]+train[4:]", ["train"], expected("train", 2) + expected("train")[4:]),
        ("all", ["contrast", "test", "train"], expected("train") + expected("test") + expected("contrast")),
    ],
)
def test_expressions(hub, split, files, pixels):
    assert greys(load_source(DataConfig(path="user/cars", split=split))) == pixels
    assert fetched(hub) == files


def test_an_expression_uses_what_was_fetched_for_its_split(hub):
    load_source(DataConfig(path="user/cars"))
    fetched(hub)
    assert greys(load_source(DataConfig(path="user/cars", split="train[:2]"))) == expected("train", 2)
    assert fetched(hub) == []


@pytest.mark.parametrize("split", ["trian", "train+trian", "trian[:50%]", "all+train"])
def test_an_unknown_split_fetches_nothing(hub, split):
    sentence = rf"^data.split '{re.escape(split)}' is not a split of user/cars: Should be one of \['train', 'test', "
    with pytest.raises(UserError, match=sentence + r"'contrast'\]\.$"):
        load_source(DataConfig(path="user/cars", split=split))
    assert fetched(hub) == []


def test_an_expression_that_cannot_be_parsed(hub):
    with pytest.raises(UserError, match=r"^data.path user/cars cannot be loaded: Unrecognized instruction format: tr"):
        load_source(DataConfig(path="user/cars", split="train[x"))
    assert fetched(hub) == []


def test_damaged_files_of_other_splits_do_no_harm(hub):
    files = repository("default")
    hub.add("datasets/user/cars", {name: b"damaged" if "test" in name else data for name, data in files.items()})
    assert greys(load_source(DataConfig(path="user/cars"))) == expected("train")
    with pytest.raises(UserError, match="^data.path user/cars cannot be loaded: "):
        load_source(DataConfig(path="user/cars", split="test"))


def test_the_recorded_number_of_images_is_still_checked(hub):
    wrong = {**SPLITS, "test": 5}
    hub.add("datasets/user/cars", repository("default", splits=wrong))
    assert len(load_source(DataConfig(path="user/cars"))) == 6
    with pytest.raises(UserError, match=r"^data.path user/cars cannot be loaded: .*num_examples=5"):
        load_source(DataConfig(path="user/cars", split="test"))


def test_configurations_and_revisions(hub):
    commit = hub.add("datasets/user/cars", repository("old", "new"))
    for name, rows in (("old", 6), ("new", 6)):
        source = load_source(DataConfig(path="user/cars", name=name), conditional=True)
        assert fetched(hub) == [f"{name}/train"] and len(source) == rows and source.features["label"].names == NAMES
    later = repository("old", "new", splits={**SPLITS, "train": 3}) | parquet("train", 3, "old/")
    hub.repositories["datasets/user/cars"].commit("main", "fewer", later)
    assert len(load_source(DataConfig(path="user/cars", name="old"))) == 3
    assert fetched(hub) == ["old/train"]
    assert len(load_source(DataConfig(path="user/cars", name="old", revision=commit))) == 6
    assert fetched(hub) == []


def test_a_repository_without_a_readme(hub):
    files = {name: data for name, data in repository("default").items() if name != "README.md"}
    hub.add("datasets/user/cars", files)
    source = load_source(DataConfig(path="user/cars", split="test"), conditional=True)
    assert fetched(hub) == ["test"]
    assert source.features["label"].names == ["0", "1"] and greys(source) == expected("test")


def test_a_part_is_never_taken_for_the_whole_nor_the_whole_prepared_again(hub, tmp_path):
    config = DataConfig(path="user/cars")
    part = load_source(config)
    whole = datasets.load_dataset("user/cars")
    assert {split: len(rows) for split, rows in whole.items()} == SPLITS
    fetched(hub)

    # The part goes on being used, so that the images decoded from it are.
    assert load_source(config)._fingerprint == part._fingerprint
    # There is no part with the test images, but the whole has them.
    assert greys(load_source(DataConfig(path="user/cars", split="test"))) == expected("test")
    folders = sorted(folder.name for folder in (tmp_path / "home/datasets/user___cars").iterdir())
    assert folders == ["default", "default-splits=train"] and fetched(hub) == []


def test_the_disk_needs_no_room_for_other_splits(hub):
    """Old repositories have a file that records the size of everything."""
    record = json.dumps({"default": {"size_in_bytes": 10**18}}).encode()
    files = {name: data for name, data in repository("default").items() if name != "README.md"}
    hub.add("datasets/user/cars", files | {"dataset_infos.json": record})
    assert greys(load_source(DataConfig(path="user/cars"))) == expected("train")
    with pytest.raises(UserError, match="^data.path user/cars cannot be loaded: Not enough disk space"):
        load_source(DataConfig(path="user/cars", split="all"))


def test_datasets_does_not_find_a_part_offline(hub, offline):
    load_source(DataConfig(path="user/cars"))
    offline()
    with pytest.raises(ValueError, match="Couldn't find cache for user/cars"):
        datasets.load_dataset("user/cars")


@pytest.mark.parametrize("streaming", [False, True])
def test_what_was_fetched_is_used_offline(hub, offline, caplog, streaming):
    commit = hub.repositories["datasets/user/cars"].find("main").oid
    config = DataConfig(path="user/cars")
    before = load_source(config)._fingerprint
    load_source(DataConfig(path="user/cars", split="test+contrast"))
    offline()
    hub.clear()
    for name in (None, "default"):
        for revision in (None, commit):
            again = DataConfig(path="user/cars", name=name, revision=revision, streaming=streaming)
            source = load_source(again, conditional=True)
            assert source.features["label"].names == NAMES and greys(source) == expected("train")
            assert streaming or source._fingerprint == before
    assert "using the copy of user/cars in the cache" in caplog.text
    # A copy that contains more than the split will do.
    assert greys(load_source(DataConfig(path="user/cars", split="contrast", streaming=streaming))) == [30, 31]
    for fields in ({"split": "train+test"}, {"split": "all"}, {"name": "other"}, {"revision": "0" * 40}):
        with pytest.raises(UserError, match="^data.path user/cars is not a local folder and the Hub cannot be reache"):
            load_source(DataConfig(path="user/cars", streaming=streaming, **fields))
    assert not hub.requests


def test_offline_the_latest_copy_is_used(hub, offline):
    config = DataConfig(path="user/cars")
    load_source(config)
    changed = repository("default", splits={**SPLITS, "train": 3}) | parquet("train", 3)
    hub.repositories["datasets/user/cars"].commit("main", "fewer", changed)
    load_source(config)
    offline()
    assert len(load_source(config)) == 3


def test_offline_a_configuration_must_be_named_if_the_cache_has_several(hub, offline):
    hub.add("datasets/user/cars", repository("old", "new"))
    for name in ("old", "new"):
        load_source(DataConfig(path="user/cars", name=name))
    offline()
    assert len(load_source(DataConfig(path="user/cars", name="new"))) == 6
    with pytest.raises(UserError, match=r"several configurations; set data.name to one of \['new', 'old'\]$"):
        load_source(DataConfig(path="user/cars"))


def test_a_stream_reads_only_its_split(hub):
    config = DataConfig(path="user/cars", streaming=True)
    source = load_source(config, conditional=True)
    assert source.features["label"].names == NAMES and greys(source) == expected("train")
    assert set(fetched(hub)) == {"train"}
    with pytest.raises(UserError, match=r"'trian' is not a split of user/cars: .*\['train', 'test', 'contrast'\]"):
        load_source(DataConfig(path="user/cars", split="trian", streaming=True))


def test_classes_of_folders_of_images_are_those_of_all_splits(hub):
    """The test images are all of the second class."""
    places = {"train/ant/0.png": 1, "train/bee/0.png": 2, "test/bee/0.png": 3, "test/bee/1.png": 4}
    hub.add("datasets/user/animals", {place: picture(grey) for place, grey in places.items()})
    source = load_source(DataConfig(path="user/animals", split="test"), conditional=True)
    assert source.features["label"].names == ["ant", "bee"] and source["label"][:] == [1, 1]


def test_a_local_folder_prepares_only_the_split(hub, tmp_path):
    folder = tmp_path / "cars"
    for name, data in repository("default").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"damaged" if "contrast" in name else data)
    config = DataConfig(path=str(folder))
    source = load_source(config, conditional=True)
    assert source.features["label"].names == NAMES and greys(source) == expected("train")
    written = [file.name for file in (tmp_path / "home/datasets").rglob("*.arrow")]
    assert written == ["cars-train.arrow"]
    # A changed file is read again.
    before = source_fingerprint(config, source)
    shutil.copy(folder / "data/test-00000-of-00001.parquet", folder / "data/train-00000-of-00001.parquet")
    (folder / "README.md").write_bytes(card("default", splits={**SPLITS, "train": 4}))
    changed = load_source(config)
    assert greys(changed) == expected("test") and source_fingerprint(config, changed) != before
