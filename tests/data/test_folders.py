"""Folders of images: which files are read, what their classes are, and what is said of the others."""

import os
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from cardiff.config.sections import DataConfig
from cardiff.data import ImageStream, load_source, open_store
from cardiff.data.folders import LITTER, natural_key, picture_endings, read_image_folder
from cardiff.errors import UserError


def write(folder, *names):
    """Files of these names: pictures of 4 x 4 whose grey is their place in the list, whatever the ending."""
    for grey, name in enumerate(names):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), grey).save(path, "PNG")
    return DataConfig(path=str(folder), resolution=4, channels=1, cache_dir=str(Path(folder).parent / "cache"))


def read(config, conditional=True):
    """[(file, class name or None)] of the data set, files relative to the folder."""
    source = load_source(config, conditional)
    names = source.features["label"].names if "label" in source.features else []
    found = []
    for row in source:
        label = row.get("label", -1)
        found.append((os.path.relpath(row["image"]["path"], config.path), names[label] if label >= 0 else None))
    return found


# What is read


@pytest.mark.parametrize("streaming", [False, True])
def test_names_of_splits_are_classes_among_others(tmp_path, streaming):
    names = ["bus/a.png", "dev/1.png", "train/photo of a test.png", "train/train_1.png", "train station/1.png"]
    config = replace(write(tmp_path / "set", *names), streaming=streaming)
    assert read(config) == [(name, name.split("/")[0]) for name in names]


def test_everything_below_the_first_level_belongs_to_the_class(tmp_path):
    config = write(tmp_path / "set", "dog/2020/1.png", "dog/2021/train/2.png", "cat/1.png")
    assert read(config) == [("cat/1.png", "cat"), ("dog/2020/1.png", "dog"), ("dog/2021/train/2.png", "dog")]


def test_natural_order():
    names = ["007", "7", "10", "Dog", "cat2", "cat10", "cat10a", "dog", "é"]
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(names).tolist()
        assert sorted(shuffled, key=natural_key) == names
        numbers = [int(10 ** (40 * power)) for power in np.random.default_rng(seed).random(50)]
        named = [f"a{number}.b" for number in numbers]
        assert sorted(named, key=natural_key) == [f"a{number}.b" for number in sorted(numbers)]


def test_files_and_classes_are_in_natural_order(tmp_path):
    names = ["2/9.png", "2/10.png", "10/1.png", "10/a/1.png", "10 b/1.png"]
    config = write(tmp_path / "set", *reversed(names))
    assert [name for name, _ in read(config)] == names
    assert load_source(config).features["label"].names == ["2", "10", "10 b"]


def test_endings_are_those_that_pillow_opens(tmp_path):
    assert {".png", ".jpg", ".jfif", ".gif", ".webp", ".tif", ".bmp", ".mpo", ".jp2"} <= picture_endings()
    assert not {".pdf", ".mpg", ".heic", ".txt", ".h5", ".wmf", ".csv", ".mp4", ""} & picture_endings()
    config = write(tmp_path / "set", "a/1.Png", "a/2.JFIF", "b/3.gif", "b/4.avif")
    assert [name for name, _ in read(config)] == ["a/1.Png", "a/2.JFIF", "b/3.gif", "b/4.avif"]


ODD = ["__background__", "[a-b]", "x::y", "*", "-dog", " two  spaces ", "a?b#c%20", "{x}", "ç, é", "zip:"]


def test_names_mean_nothing_but_themselves(tmp_path):
    """Each is the name of a class, of a file and of the folder itself, and the pixels are found."""
    names = [f"{name}/{name}.png" for name in ODD]
    for folder in ("x::y", "[a-b]", "*"):
        config = write(tmp_path / folder, *names)
        store = open_store(config, conditional=True)
        assert sorted(store.class_names) == sorted(ODD)
        found = {store.class_names[label]: image[0, 0, 0] for image, label in zip(store.images, store.labels)}
        assert found == {name: grey for grey, name in enumerate(ODD)}


def test_links_are_followed_but_not_in_circles(tmp_path, caplog):
    config = write(tmp_path / "set", "a/1.png", "b/deep/2.png")
    write(tmp_path / "elsewhere", "x/3.png")
    (tmp_path / "set/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/b/4.png").symlink_to(tmp_path / "elsewhere/x/3.png")
    (tmp_path / "set/b/deep/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/a/itself").symlink_to("itself")
    (tmp_path / "set/a/gone.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "set/a/pipe.png")
    assert read(config) == [("a/1.png", "a"), ("b/4.png", "b"), ("b/deep/2.png", "b"), ("c/x/3.png", "c")]
    assert caplog.messages == [
        f"Ignored in {config.path}: 1 linking back to a parent folder, first b/deep/up.",
        f"Ignored in {config.path}: 3 neither an accessible file nor a folder, first a/gone.png, a/itself, "
        "a/pipe.png.",
    ]


def test_the_folder_may_be_relative_and_the_place_another(tmp_path, monkeypatch):
    config = write(tmp_path / "set", "a/1.png", "b/2.png")
    monkeypatch.chdir(tmp_path)
    source = load_source(replace(config, path="set"))
    assert source[0]["image"]["path"] == str(tmp_path / "set/a/1.png")


# What is not read


def test_what_is_left_out_is_counted_and_named(tmp_path, caplog):
    files = ["a/1.png", "a/2.heic", "a/labels.csv", "b/3.png", "c/4.heic", "notes", "list.txt"]
    config = write(tmp_path / "set", *files)
    (tmp_path / "set/d/e").mkdir(parents=True)
    assert read(config) == [("a/1.png", "a"), ("b/3.png", "b")]
    assert caplog.messages == [
        f"Ignored in {config.path}: 5 without the extension of a readable image format (2 .heic, 1 .csv, "
        "1 .txt, 1 no ending), first a/2.heic, a/labels.csv, c/4.heic.",
        f"Ignored in {config.path}: 2 without a picture inside, first c/, d/.",
    ]


def test_hidden_files_and_litter_are_passed_over(tmp_path, caplog):
    litter = [".DS_Store", "a/._1.png", ".ipynb_checkpoints/1.png", "a/.ipynb_checkpoints/2.png", "Thumbs.db"]
    litter += ["a/desktop.ini", "__MACOSX/a/1.png", "a/@eaDir/1.png", ".git/x.png"]
    config = write(tmp_path / "set", "a/1.png", "b/1.png", *litter)
    assert read(config) == [("a/1.png", "a"), ("b/1.png", "b")]
    assert caplog.messages == []


def test_every_file_is_read_or_left_out_aloud(tmp_path):
    """Of any tree: nothing vanishes, nothing is there twice, and the class is the first level below the split."""
    parts = ["train", "test", "val", "dog", "dog 2", "x::y", ".hidden", "[1]", "__MACOSX"]
    endings = [".png", ".JPG", ".txt", "", ".heic", ".parquet", ".tiff"]
    split = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(parts[: 3 if seed % 4 == 0 else None])[: rng.integers(1, 6)]
        names = set()
        for i in range(20):
            depth = rng.integers(0, 4)
            names.add("/".join([*rng.choice(chosen, depth), f"{i}{rng.choice(endings)}"]))
        folder = tmp_path / str(seed)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")
        found = read_image_folder(folder)
        aloud = [name for listed in found.left_out.values() for name in listed if not name.endswith("/")]
        visible = [
            name for name in names if not any(p.startswith(".") or p.lower() in LITTER for p in name.split("/"))
        ]
        assert sorted(found.pictures + aloud) == sorted(visible)
        assert all(Path(name).suffix.lower() in (".png", ".jpg", ".tiff") for name in found.pictures)
        firsts = {name.split("/")[0] for name in visible if "/" in name and name in found.pictures}
        assert set(found.splits) == (firsts if firsts <= {"train", "test", "val"} else set())
        split += bool(found.splits)
        for name in found.pictures:
            below = name.split("/")[bool(found.splits) :]
            assert found.class_of(name) == (below[0] if len(below) > 1 else None)
    assert 5 < split < 55  # both kinds of trees were among them


def test_names_that_are_not_utf_8(tmp_path, caplog):
    config = write(tmp_path / "set", "a/1.png", "b/2.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/set/a/\xff.txt")).write_text("")
    assert len(read(config)) == 2
    assert caplog.messages[0].endswith(r"first a/\xff.txt.")
    for place in (b"set/a/\xff.png", b"set/\xe9/1.png"):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), place)))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        with pytest.raises(UserError, match=r"^The name of .*\\x.*png is not UTF-8: rename it\.$") as error:
            load_source(config)
        str(error.value).encode()
        path.unlink()


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    config = write(tmp_path / "set", "a/1.png", "b/2.png")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"set/b cannot be read \(Permission denied\): correct its permissions or"):
        load_source(config)


# Splits


def test_splits(tmp_path, caplog):
    names = ["train/cat/1.png", "train/dog/a/2.png", "train/dog/3.png", "Val/cat/4.png", "stray.png", "notes/5.txt"]
    config = write(tmp_path / "set", *names)
    assert read(config) == [("train/cat/1.png", "cat"), ("train/dog/3.png", "dog"), ("train/dog/a/2.png", "dog")]
    assert caplog.messages[0] == (
        f"The subfolders of {config.path} are read as splits (Val, train), since they all have the names of splits; "
        "the folders below them are the classes."
    )
    assert caplog.messages[1] == f"Ignored in {config.path}: 1 outside the splits, first stray.png."
    for split in ("Val", "validation"):  # also as `datasets` calls it
        # Labels count the classes of all splits.
        val = load_source(replace(config, split=split))
        assert val.features["label"].names == ["cat", "dog"] and val["label"][:] == [0]
    assert len(read(replace(config, split="all"))) == len(read(replace(config, split="train+Val"))) == 4
    with pytest.raises(UserError, match=r"data.split 'test' is not a split of .*: it has Val, train, validation\."):
        read(replace(config, split="test"))


def test_two_folders_of_one_split_keep_their_names(tmp_path):
    config = write(tmp_path / "set", "dev/a/1.png", "val/a/2.png", "val/b/3.png")
    assert [name for name, _ in read(replace(config, split="val"))] == ["val/a/2.png", "val/b/3.png"]
    with pytest.raises(UserError, match="'validation' is not a split of .*: it has dev, val."):
        read(replace(config, split="validation"))


def test_classes_that_look_like_splits_are_pointed_out(tmp_path, caplog):
    config = write(tmp_path / "set", "train/1.png", "test/2.png", "unlabelled/3.png")
    assert len(read(config)) == 3
    assert caplog.messages == [
        f"The subfolders test, train of {config.path} are read as classes, not splits, since other subfolders have "
        "pictures too."
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_parts_of_a_split(tmp_path, streaming):
    """The same rows as `datasets` cuts from a table of as many."""
    names = [f"{'ab'[i // 10]}/{i}.png" for i in range(20)]
    config = replace(write(tmp_path / "set", *names), streaming=streaming)
    table = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict({"row": list(range(20))}).to_parquet(table)
    for split in ("train", "train[90%:]", "train[:3]", "train[-3:]", "train[5:7]+train[:10%]", "train[33%:66%]"):
        rows = datasets.load_dataset("parquet", data_files=str(table), split=split)["row"][:]
        assert [name for name, _ in read(replace(config, split=split))] == [names[row] for row in rows]
    with pytest.raises(UserError, match="data.split 'train.20:.' of .*set is empty: choose a split that has images."):
        open_store(replace(config, split="train[20:]", streaming=False), conditional=False)
    for split in ("test", "train[x]", "", "train[:5%", "trian[:5]"):
        with pytest.raises(UserError, match=f"^data.split '{re.escape(split)}' is not a split of .*: it has train, "):
            read(replace(config, split=split))


def test_a_stream_of_a_part(tmp_path):
    config = write(tmp_path / "set", *[f"{'ab'[i // 10]}/{i}.png" for i in range(20)])
    stream = ImageStream(replace(config, streaming=True, split="train[5:15]"), 0, conditional=True)
    images, labels, _ = next(stream.batches(10, range(10)))
    assert sorted(images[:, 0, 0, 0].tolist()) == list(range(5, 15))
    assert [int(grey >= 10) for grey in images[:, 0, 0, 0]] == labels.tolist()
    assert len(list(islice(stream.batches(10, range(10)), 3))) == 3


# Classes that are missing


def test_pictures_beside_the_classes(tmp_path):
    config = write(tmp_path / "set", "a/1.png", "b/2.png", "c.png", "b.png")
    store = open_store(config, conditional=False)
    assert store.class_names == ["a", "b"] and sorted(store.labels.tolist()) == [-1, -1, 0, 1]
    with pytest.raises(UserError, match=r"^2 pictures of .*set are not in any of the class subfolders, "):
        open_store(config, conditional=True)
    with pytest.raises(UserError, match=r"first b.png, c.png: move or remove them, or train without labels "):
        ImageStream(replace(config, streaming=True), 0, conditional=True)


def test_a_flat_folder(tmp_path):
    config = write(tmp_path / "set", "1.png", "train.png")
    store = open_store(config, conditional=False)
    assert len(store) == 2 and store.labels is None and store.class_names == []
    with pytest.raises(UserError, match="^The pictures of .*set are not in subfolders, .* train_unconditional.py"):
        load_source(config, conditional=True)


def test_a_single_class(tmp_path):
    config = write(tmp_path / "set", "images/cat/1.png", "images/dog/2.png")
    assert len(open_store(config, conditional=False)) == 2
    with pytest.raises(UserError, match=r"are in one subfolder, 'images', .*: give the folder whose subfolders are"):
        load_source(config, conditional=True)


# What `datasets` reads


def test_data_files_stay_with_datasets(tmp_path):
    config = write(tmp_path / "set", "a/1.png", "train_1.png", "photo of a test.png")
    table = "file_name,label\na/1.png,x\ntrain_1.png,y\nphoto of a test.png,x\n"
    (tmp_path / "set/metadata.csv").write_text(table)
    source = load_source(config, conditional=True)
    labels = {os.path.basename(row["image"]["path"]): row["label"] for row in source}
    assert labels == {"1.png": 0, "train_1.png": 1, "photo of a test.png": 0}
    assert source.features["label"].names == ["x", "y"]
    for split, label in (("train", "x"), ("test", "y")):
        write(tmp_path / "splits", f"{split}/1.png")
        (tmp_path / "splits" / split / "metadata.csv").write_text(f"file_name,label\n1.png,{label}\n")
    for split, label in (("train", "x"), ("test", "y")):
        source = load_source(replace(config, path=str(tmp_path / "splits"), split=split), conditional=True)
        assert source.features["label"].names == [label] and len(source) == 1

    table = datasets.Dataset.from_dict({"image": [str(tmp_path / "set/a/1.png")], "label": [0]})
    (tmp_path / "tables").mkdir()
    table.to_parquet(tmp_path / "tables/train.parquet")
    (tmp_path / "tables/README.md").write_text("# A table")
    assert len(load_source(replace(config, path=str(tmp_path / "tables")), conditional=True)) == 1
    write(tmp_path / "tables", "a/1.png")
    with pytest.raises(UserError, match=r"both pictures, first a/1.png, and data files, first train.parquet: move"):
        load_source(replace(config, path=str(tmp_path / "tables")))


def test_a_folder_without_pictures(tmp_path):
    config = write(tmp_path / "set", "a/1.heic", "a/readme.txt")
    (tmp_path / "set/b").mkdir()
    with pytest.raises(UserError) as error:
        load_source(config)
    assert str(error.value) == (
        f"data.path {config.path} has no images or data files; 2 without the extension of a readable image format "
        "(1 .heic, 1 .txt), first a/1.heic, a/readme.txt; 2 without a picture inside, first a/, b/: add some or "
        "correct the path."
    )
