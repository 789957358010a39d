import io
import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cardiff.config.sections import DataConfig
from cardiff.data import decode_image, load_source, source_fingerprint
from cardiff.errors import UserError

DIGITS = Path(__file__).parents[2] / "data" / "digits.parquet"


def png(value):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_parquet(path, labels, feature=None, image_column="image"):
    """Four-pixel-wide pictures whose grey is their row; `labels` of the type `feature`."""
    columns = {image_column: [png(row) for row in range(len(labels))], "label": labels}
    label_type = {"label": feature} if feature else {}
    table = datasets.Dataset.from_dict(columns).cast_column(image_column, datasets.Image())
    for column, column_type in label_type.items():
        table = table.cast_column(column, column_type)
    table.to_parquet(path)
    return DataConfig(path="parquet", data_files=str(path))


def write_folders(folder, names=("ant", "bee"), images=3):
    for c, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(images):
            Image.new("L", (4, 4), 10 * c + i).save(folder / name / f"{i}.png")
    return DataConfig(path=str(folder))


def test_digits_are_those_of_scikit_learn():
    config = DataConfig(path="parquet", data_files=str(DIGITS), resolution=8, channels=1)
    digits, expected = load_source(config, conditional=True), load_digits()
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert digits.features["label"].names == names
    assert digits["label"][:] == expected.target.tolist()
    images = np.stack([decode_image(raw, config)[0] for raw in digits["image"]])
    assert images.shape == (1797, 8, 8)
    np.testing.assert_array_equal(images, [[[round(v * 255 / 16) for v in row] for row in d] for d in expected.images])


@pytest.mark.parametrize("streaming", [False, True])
def test_class_folders(tmp_path, streaming):
    config = write_folders(tmp_path / "animals")
    config.streaming = streaming
    source = load_source(config, conditional=True)
    assert source.features["image"] == datasets.Image(decode=False)
    assert source.features["label"].names == ["ant", "bee"]
    rows = [(Path(row["image"]["path"]).parent.name, row["label"]) for row in source]
    assert rows == [("ant", 0)] * 3 + [("bee", 1)] * 3


@pytest.mark.parametrize(
    "labels, names, encoded",
    [
        (["b", "a", "c", "a"], ["a", "b", "c"], [1, 0, 2, 0]),
        ([3, 0, 10], [str(i) for i in range(11)], [3, 0, 10]),
        ([0, -1, None], ["0"], [0, -1, None]),
        (["b", None], ["b"], [0, None]),
    ],
)
def test_labels_are_encoded(tmp_path, labels, names, encoded):
    source = load_source(write_parquet(tmp_path / "a.parquet", labels), conditional=True)
    assert source.features["label"].names == names
    assert source["label"][:] == encoded
    assert [np.asarray(Image.open(io.BytesIO(raw["bytes"])))[0, 0] for raw in source["image"]] == list(
        range(len(labels))
    )


@pytest.mark.parametrize(
    "labels, first_label, names, encoded",
    [
        ([1, 3, 2, 1], 1, ["1", "2", "3"], [0, 2, 1, 0]),
        ([7, 9], 7, ["7", "8", "9"], [0, 2]),
        ([1, 0, None], 1, ["1"], [0, -1, None]),
        ([0, 1], 0, ["0", "1"], [0, 1]),
    ],
)
def test_labels_that_count_from_another_number(tmp_path, labels, first_label, names, encoded):
    config = write_parquet(tmp_path / "a.parquet", labels)
    source = load_source(replace(config, first_label=first_label), conditional=True)
    assert source.features["label"].names == names
    assert source["label"][:] == encoded


def test_a_saved_set_in_a_stream_counts_from_another_number(tmp_path):
    write_parquet(tmp_path / "a.parquet", [1, 2])
    table = datasets.load_dataset("parquet", data_files=str(tmp_path / "a.parquet"), split="train")
    table.save_to_disk(tmp_path / "saved")
    config = DataConfig(path=str(tmp_path / "saved"), streaming=True, first_label=1)
    source = load_source(config, conditional=True)
    assert source.features["label"].names == ["1", "2"] and [row["label"] for row in source] == [0, 1]


def test_labels_without_a_zero_are_refused_with_classes(tmp_path):
    config = write_parquet(tmp_path / "a.parquet", [1, 3, 2, -1])
    assert load_source(config)["label"][:] == [1, 3, 2, -1]  # as it always was
    with pytest.raises(UserError, match=r"'label' of parquet contains 1 to 3, but .*: set data.first_label to .* 1"):
        load_source(config, conditional=True)
    for path, labels in (("b", ["x", "y"]), ("c", [0, 1])):
        feature = datasets.ClassLabel(names=["x", "y"]) if path == "c" else None
        named = replace(write_parquet(tmp_path / f"{path}.parquet", labels, feature), first_label=1)
        assert load_source(named)["label"][:] == [0, 1]
        with pytest.raises(UserError, match="contains no integers: set data.first_label: 0 instead of 1"):
            load_source(named, conditional=True)


@pytest.mark.parametrize(
    "labels, sentence",
    [
        (
            pa.array([[0], [1]]),
            r"contains List\(Value\('int64'\)\): it must contain an integer, a string or a ClassLabel ",
        ),
        (
            pa.array([{"a": 1}, {"a": 2}]),
            r"contains \{'a': .*\}: it must contain an integer, a string or a ClassLabel for",
        ),
        (pa.array([True, False]), r"contains Value\('bool'\): it must contain an integer"),
        (pa.array([1, 2], pa.timestamp("s")), r"contains Value\('timestamp.*'\): it must contain an integer"),
        (pa.array([b"a", b"b"]), r"contains Value\('binary'\): it must contain an integer"),
        (
            pa.array([2**63 + 5, 1], pa.uint64()),
            "contains integers up to 9223372036854775813, which is too large for",
        ),
        (pa.array([2**63 - 1, 0]), "contains integers up to 9223372036854775807, which is too large for class "),
        (
            pa.array([100_000, 0]),
            "contains integers up to 100000, which is too large for class numbers: number the classes",
        ),
    ],
)
def test_columns_that_are_no_labels(tmp_path, labels, sentence):
    pq.write_table(pa.table({"image": pa.array([png(0)["bytes"]] * 2), "label": labels}), tmp_path / "a.parquet")
    config = DataConfig(path="parquet", data_files=str(tmp_path / "a.parquet"))
    assert load_source(config).column_names == ["image"]
    with pytest.raises(UserError, match=f"^data.label_column 'label' of parquet {sentence}") as error:
        load_source(config, conditional=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [pa.array(["b", "a"], pa.string_view()), pa.array(["b", "a"]).dictionary_encode()])
def test_text_of_any_kind_names_classes(tmp_path, labels):
    pq.write_table(pa.table({"image": pa.array([png(0)["bytes"]] * 2), "label": labels}), tmp_path / "a.parquet")
    source = load_source(DataConfig(path="parquet", data_files=str(tmp_path / "a.parquet")), conditional=True)
    assert source.features["label"].names == ["a", "b"] and source["label"][:] == [1, 0]


def test_labels_are_needed_only_with_classes(tmp_path):
    config = write_parquet(tmp_path / "a.parquet", [0.5, 1.5])
    assert load_source(config).column_names == ["image"]
    with pytest.raises(UserError, match=r"data.label_column 'label' of parquet contains .*float64.*: it must"):
        load_source(config, conditional=True)
    config.label_column = "lable"
    assert load_source(config).column_names == ["image"]
    with pytest.raises(UserError, match=r"'lable' is not a column .* \['image', 'label'\]: did you mean 'label'\?"):
        load_source(config, conditional=True)
    config.label_column = "species"
    with pytest.raises(UserError, match="data.label_column 'species' is not a column .*set data.label_column"):
        load_source(config, conditional=True)


def test_stream_needs_a_class_label(tmp_path):
    config = write_parquet(tmp_path / "a.parquet", ["b", "a"])
    config.streaming = True
    assert load_source(config).column_names == ["image"]
    with pytest.raises(UserError, match="a stream needs a ClassLabel."):
        load_source(config, conditional=True)


@pytest.mark.parametrize("streaming", [False, True])
def test_saved_to_disk(tmp_path, streaming):
    data = datasets.Dataset.from_dict({"image": [png(7), png(8)], "label": ["b", "a"]})
    data = data.cast_column("image", datasets.Image())
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(valid=data).save_to_disk(tmp_path / "dict")
    for path, split in (("one", "train"), ("dict", "valid")):
        config = DataConfig(path=str(tmp_path / path), split=split, streaming=streaming)
        source = load_source(config, conditional=True)
        assert source.features["label"].names == ["a", "b"]
        assert [row["label"] for row in source] == [1, 0]
    with pytest.raises(UserError, match=r"data.split 'train' is not a split of .*dict: it has \['valid'\]"):
        load_source(DataConfig(path=str(tmp_path / "dict")))
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(UserError, match=r"data.path .*one cannot be loaded \(.*\): save it to disk again."):
        load_source(DataConfig(path=str(tmp_path / "one")))


def test_paths_in_a_table(tmp_path):
    write_folders(tmp_path / "animals")
    (tmp_path / "list.csv").write_text(f"file,label\n{tmp_path}/animals/bee/1.png,x\n")
    config = DataConfig(
        path="csv", data_files=str(tmp_path / "list.csv"), image_column="file", resolution=4, channels=1
    )
    source = load_source(config, conditional=True)
    np.testing.assert_array_equal(decode_image(source[0]["file"], config), np.full((1, 4, 4), 11))
    # The table does not change when the picture does.
    before = source_fingerprint(config, source)
    Image.new("L", (4, 4), 12).save(tmp_path / "animals" / "bee" / "1.png")
    assert source_fingerprint(config, load_source(config)) != before


def test_box_column(tmp_path):
    config = write_parquet(tmp_path / "a.parquet", [0])
    config.crop_to_box = True
    with pytest.raises(UserError, match=r"data.box_column 'bbox' is not a column of parquet"):
        load_source(config)


def test_fingerprint_is_the_same_in_another_process(tmp_path):
    folder = write_folders(tmp_path / "animals")
    strings = write_parquet(tmp_path / "a.parquet", ["b", "a"])
    integers = write_parquet(tmp_path / "b.parquet", [0, 1])
    load_source(strings).save_to_disk(tmp_path / "saved")
    configs = [folder, strings, integers, DataConfig(path=str(tmp_path / "saved"))]
    code = (
        "import json, sys\n"
        "from cardiff.config.sections import DataConfig\n"
        "from cardiff.data import load_source, source_fingerprint\n"
        "configs = [DataConfig(**fields) for fields in json.loads(sys.argv[1])]\n"
        "print(json.dumps([source_fingerprint(c, load_source(c, conditional=True)) for c in configs]))\n"
    )
    arguments = [sys.executable, "-c", code, json.dumps([vars(config) for config in configs])]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": "1"}
    printed = subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True).stdout
    fingerprints = [source_fingerprint(config, load_source(config)) for config in configs]
    assert fingerprints == json.loads(printed.splitlines()[-1])
    assert len(set(fingerprints)) == len(configs)


def test_fingerprint_follows_the_files(tmp_path):
    config = write_folders(tmp_path / "animals")
    before = source_fingerprint(config, load_source(config))
    Image.new("L", (4, 4), 99).save(tmp_path / "animals" / "bee" / "1.png")
    assert source_fingerprint(config, load_source(config)) != before


def test_a_folder_that_is_gone_is_not_found_in_the_cache(tmp_path, monkeypatch):
    """`datasets` keeps what it prepared of `somewhere/animals` under the name animals."""
    (tmp_path / "somewhere" / "animals").mkdir(parents=True)
    write_parquet(tmp_path / "somewhere" / "animals" / "train.parquet", [0, 1])
    config = DataConfig(path=str(tmp_path / "somewhere" / "animals"))
    assert len(load_source(config)) == 2
    (tmp_path / "somewhere" / "animals" / "train.parquet").unlink()
    monkeypatch.chdir(tmp_path)
    assert len(datasets.load_dataset("animals", split="train")) == 2  # the trap
    for streaming in (False, True):
        for path in ("animals", "nobody/animals"):
            with pytest.raises(UserError, match=f"^data.path {path} is not a local folder and the Hub cannot be"):
                load_source(DataConfig(path=path, streaming=streaming))


def test_a_copy_that_is_known_to_come_from_the_hub_is_used_without_it(tmp_path, monkeypatch, caplog):
    """`datasets` keeps owner/name in owner___name/CONFIGURATION/VERSION/COMMIT."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "cache" / "owner___name" / "default" / "0.0.0"
    config = DataConfig(path="owner/name")
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)  # what it says itself would be seen, too
    for folder in ("owner___name", "name"):  # the copy of the first lies where that of owner/name would
        (tmp_path / folder).mkdir()
        write_parquet(tmp_path / folder / "train.parquet", [0, 1])
        shutil.rmtree(place, ignore_errors=True)
        load_source(DataConfig(path=folder))
        (copy,) = (tmp_path / "cache").glob(f"{folder}/default/0.0.0/*/")
        place.mkdir(parents=True, exist_ok=True)
        for digest in (copy.name, commit):
            copy = copy.rename(place / digest)
            if (folder, digest) != ("name", commit):
                with pytest.raises(UserError, match="owner/name is not a local folder and the Hub cannot be reached"):
                    load_source(config)
    assert not caplog.messages and load_source(config)["label"][:] == [0, 1]
    assert caplog.messages == ["The Hub cannot be reached: using the copy of owner/name in the cache of `datasets`."]
    assert len(list(load_source(replace(config, streaming=True)))) == 2
    for revision in ("0123", commit):
        assert len(load_source(replace(config, revision=revision))) == 2
    for revision in ("main", "1234"):
        with pytest.raises(UserError, match="the Hub cannot be reached"):
            load_source(replace(config, revision=revision))


def test_a_class_called_devkit(tmp_path):
    config = write_folders(tmp_path / "things", ("devkit", "spoon"))
    assert load_source(config, conditional=True).features["label"].names == ["devkit", "spoon"]


def test_failures_are_one_sentence(tmp_path, monkeypatch):
    parquet = write_parquet(tmp_path / "a.parquet", [0, 1])
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    (tmp_path / "text").mkdir()
    monkeypatch.chdir(tmp_path)
    for fields, sentence in (
        ({"path": "/no/such/folder"}, "data.path /no/such/folder does not exist: correct the folder's name."),
        ({"path": ""}, "data.path is empty: give a folder, a data set on the Hub or a format."),
        ({"path": "text"}, r"when data.path is a format \(text\); for the folder of that name, give ./text."),
        ({"path": "./nothing"}, "data.path ./nothing does not exist: "),
        ({"path": "a/b/c"}, "data.path a/b/c does not exist: "),
        ({"path": str(empty)}, "empty has no images or data files: add some or correct the path."),
        ({"path": parquet.data_files}, "a.parquet is a file: set data.path to its format"),
        (
            {"path": str(empty), "data_files": parquet.data_files},
            "a.parquet is not in the folder data.path .*: omit one of them",
        ),
        ({"path": "parquet"}, "data.data_files must give the files to read when data.path is a format"),
        ({"path": "parquet", "data_files": str(empty / "x.parquet")}, "x.parquet cannot be loaded: Unable to find '"),
        (
            {"path": "parquet", "data_files": str(empty / "*.parquet")},
            "cannot be loaded: At least one valid",
        ),
        ({"path": "parquet", "data_files": str(tmp_path / "broken.parquet")}, "cannot be loaded: Parquet magic bytes"),
        ({**vars(parquet), "split": "trian"}, r"data.split 'trian' is not a split of parquet: .*\['train'\]"),
        ({**vars(parquet), "split": "trian", "streaming": True}, r"'trian' is not a split of parquet: .*\['train'\]"),
        (
            {**vars(parquet), "image_column": "img"},
            r"'img' is not a column .* \['image', 'label'\]: did you mean",
        ),
        (
            {**vars(parquet), "image_column": "label"},
            "contains .*int64.*: give a column of images.",
        ),
        ({"path": "nobody/nothing"}, "is not a local folder and the Hub cannot be reached: correct the path"),
    ):
        with pytest.raises(UserError, match=sentence) as info:
            load_source(DataConfig(**fields))
        assert "\n" not in str(info.value)


def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise datasets.exceptions.DatasetGenerationError("wrapped") from OSError(
            28, "No space left on device", "x/cache"
        )

    config = write_parquet(tmp_path / "a.parquet", [0, 1])
    monkeypatch.setattr(datasets.DatasetBuilder, "download_and_prepare", full)
    with pytest.raises(
        UserError, match="data.path parquet cannot be loaded: x/cache: No space left .*: free some space"
    ):
        load_source(config)
