"""A random part of a stream: the whole of a short one, every image of a long one with the same chance."""

import datasets
import numpy as np
import pytest
from PIL import Image

from cardiff.config.sections import DataConfig
from cardiff.data import UnreadableImage, open_store, part, random_part


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty grey images in two classes, image i of brightness 5·i."""
    folder = tmp_path_factory.mktemp("stream")
    for i in range(40):
        path = folder / ("ant" if i < 30 else "bee")
        path.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 5 * i, np.uint8)).save(path / f"{i:02d}.png")
    return folder


def section(folder, **more) -> DataConfig:
    return DataConfig(path=str(folder), resolution=8, channels=1, streaming=True, **more)


def test_a_short_stream_is_as_its_store(folder):
    images, labels, names, total = random_part(section(folder), 40)
    store = open_store(DataConfig(path=str(folder), resolution=8, channels=1), conditional=True)
    np.testing.assert_array_equal(images, store.images)
    np.testing.assert_array_equal(labels, store.labels)
    assert (names, total) == (store.class_names, 40)
    assert len(random_part(section(folder), 1000)[0]) == 40


def test_of_a_long_stream_every_image_has_the_same_chance(folder, monkeypatch):
    """Ten of forty, with other random numbers every time: each is chosen in a quarter of the draws."""
    counts, default_rng = np.zeros(40), np.random.default_rng
    for seed in range(200):
        monkeypatch.setattr(np.random, "default_rng", lambda _, seed=seed: default_rng(seed))
        images, labels, _, total = random_part(section(folder), 10)
        chosen = images[:, 0, 0, 0] // 5
        assert len(set(chosen.tolist())) == 10 and total == 40
        assert (labels == (chosen >= 30)).all()  # each with its own label
        counts[chosen] += 1
    error = np.sqrt(200 * 0.25 * 0.75)
    assert np.abs(counts - 50).max() < 4 * error
    assert abs(counts[:10].mean() - counts[30:].mean()) < 4 * error * np.sqrt(2 / 10)


def test_the_last_image_has_no_better_chance_than_the_first(tmp_path, monkeypatch):
    """One of two, with other random numbers every time: the first in half of the draws."""
    for i in range(2):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    default_rng, firsts = np.random.default_rng, 0
    for seed in range(200):
        monkeypatch.setattr(np.random, "default_rng", lambda _, seed=seed: default_rng(seed))
        firsts += random_part(section(tmp_path), 1)[0][0, 0, 0, 0] == 0
    assert abs(firsts - 100) < 4 * np.sqrt(50)


def test_images_are_counted_over_all_chunks(folder, monkeypatch):
    whole = random_part(section(folder), 40)[0]
    monkeypatch.setattr(part, "CHUNK", 7)
    images, labels, _, total = random_part(section(folder), 40)
    np.testing.assert_array_equal(images, whole)
    assert total == 40 and labels.tolist() == [0] * 30 + [1] * 10


def test_an_image_without_a_label_has_none(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    rows = {"image": [Image.new("L", (8, 8), i) for i in range(3)], "label": [1, None, 0]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "set.parquet")
    files = DataConfig("parquet", data_files=str(tmp_path / "set.parquet"), resolution=8, channels=1, streaming=True)
    assert random_part(files, 3)[1].tolist() == [1, -1, 0]


def test_the_choice_is_the_same_every_time(folder):
    np.testing.assert_array_equal(random_part(section(folder), 7)[0], random_part(section(folder), 7)[0])


def test_unreadable_images_are_left_out_or_refused(folder, tmp_path):
    for i, name in ((3, "ant"), (4, "bee")):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((8, 8), 5 * i, np.uint8)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "ant/5.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match="5.png"):
        random_part(section(tmp_path), 10)
    images, labels, _, total = random_part(section(tmp_path, on_error="skip"), 10)
    assert images[:, 0, 0, 0].tolist() == [15, 20] and labels.tolist() == [0, 1] and total == 3


def test_without_labels(folder):
    images, labels, names, _ = random_part(section(folder, label_column="none"), 10)
    assert len(images) == 10 and labels is None and names == []
