import io
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cardiff.config import DataConfig
from cardiff.data import decode_image, load_source, source_fingerprint

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


def test_labels_are_needed_only_with_classes(tmp_path):
    config = write_parquet(tmp_path / "a.parquet", [0.5, 1.5])
    assert load_source(config).column_names == ["image"]
    with pytest.raises(ValueError, match=r"data.label_column 'label' of parquet holds .*float64.*: it must"):
        load_source(config, conditional=True)
    config.label_column = "lable"
    assert load_source(config).column_names == ["image"]
    with pytest.raises(ValueError, match=r"'lable' is not a column .* \['image', 'label'\]: did you mean 'label'\?"):
        load_source(config, conditional=True)
    config.label_column = "species"
    with pytest.raises(ValueError, match="data.label_column 'species' is not a column .*set data.label_column"):
        load_source(config, conditional=True)


def test_stream_needs_a_class_label(tmp_path):
    config = write_parquet(tmp_path / "a.parquet", ["b", "a"])
    config.streaming = True
    assert load_source(config).column_names == ["image"]
    with pytest.raises(ValueError, match="it must hold a ClassLabel in a stream."):
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
    with pytest.raises(ValueError, match=r"data.split 'train' is not a split of .*dict: it has \['valid'\]"):
        load_source(DataConfig(path=str(tmp_path / "dict")))
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(ValueError, match=r"data.path .*one cannot be loaded \(.*\): save it to disk again."):
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
    with pytest.raises(ValueError, match=r"data.box_column 'bbox' is not a column of parquet"):
        load_source(config)


def test_fingerprint_is_the_same_in_another_process(tmp_path):
    folder = write_folders(tmp_path / "animals")
    strings = write_parquet(tmp_path / "a.parquet", ["b", "a"])
    integers = write_parquet(tmp_path / "b.parquet", [0, 1])
    load_source(strings).save_to_disk(tmp_path / "saved")
    configs = [folder, strings, integers, DataConfig(path=str(tmp_path / "saved"))]
    code = (
        "import json, sys\n"
        "from cardiff.config import DataConfig\n"
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


def test_failures_are_one_sentence(tmp_path):
    parquet = write_parquet(tmp_path / "a.parquet", [0, 1])
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    for fields, sentence in (
        ({"path": "/no/such/folder"}, "data.path /no/such/folder does not exist: correct the folder's name."),
        ({"path": "./nothing"}, "data.path ./nothing does not exist: "),
        ({"path": "a/b/c"}, "data.path a/b/c does not exist: "),
        ({"path": str(empty)}, "empty has no images or data files: put some in or correct it."),
        ({"path": parquet.data_files}, "a.parquet is a file: set data.path to its format"),
        ({"path": "parquet"}, "data.data_files must name the files to read when data.path is a format"),
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
            "holds .*int64.*: name a column of images.",
        ),
        ({"path": "nobody/nothing"}, "is not a local folder and the Hub cannot be reached: correct the path"),
    ):
        with pytest.raises(ValueError, match=sentence) as info:
            load_source(DataConfig(**fields))
        assert "\n" not in str(info.value)
