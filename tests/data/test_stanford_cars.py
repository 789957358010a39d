import datasets
import numpy as np
import pytest
import scipy.io
from numpy.lib.recfunctions import repack_fields
from PIL import Image

from cardiff.config.sections import DataConfig
from cardiff.data import load_source, load_stanford_cars, open_store, source_fingerprint
from cardiff.errors import UserError
from tests.support.stanford_cars_layout import write_stanford_cars


@pytest.fixture
def folder(tmp_path):
    write_stanford_cars(tmp_path / "cars", num_images=8)
    return tmp_path / "cars"


def test_columns(tmp_path):
    annotations = write_stanford_cars(tmp_path / "cars", num_images=24, num_classes=4)
    cars = load_stanford_cars(tmp_path / "cars")
    assert cars.features["image"] == datasets.Image(decode=False)
    assert cars.features["label"].names == [f"Make {i} Coupe 2012" for i in range(4)]
    assert len(cars) == len(annotations) == 24
    for row, annotation in zip(cars, annotations, strict=True):
        assert row["image"]["path"] == str(tmp_path / "cars" / "cars_train" / annotation["fname"])
        assert row["label"] == annotation["class"] - 1
        # A box around the whole of a w x h image is 1 to w, 1 to h in the annotations and (0, 0, w, h) for PIL.
        width, height = Image.open(row["image"]["path"]).size
        assert row["bbox"] == [4, 4, width - 4, height - 4]
        corners = [annotation[f"bbox_{corner}"] for corner in ("x1", "y1", "x2", "y2")]
        assert row["bbox"] == [corners[0] - 1, corners[1] - 1, corners[2], corners[3]]


@pytest.mark.parametrize("place", [".", "devkit"])
def test_test_split(folder, place):
    labelled = folder / "cars_test_annos_withlabels.mat"
    labelled.rename(folder / place / labelled.name)
    cars = load_stanford_cars(folder, "test")
    assert len(cars) == 4 and "cars_test" in cars[0]["image"]["path"]


def test_single_annotation(tmp_path):
    write_stanford_cars(tmp_path / "cars", num_images=2, num_classes=1)
    assert load_stanford_cars(tmp_path / "cars", "test")["label"][:] == [0]


def test_store_is_cropped_to_the_box(folder, tmp_path):
    config = DataConfig(
        path=str(folder), resolution=16, fit="stretch", crop_to_box=True, box_margin=0.0, cache_dir=str(tmp_path / "c")
    )
    store = open_store(config, conditional=True)
    for row, image in zip(load_stanford_cars(folder), store.images, strict=True):
        expected = Image.open(row["image"]["path"]).crop(row["bbox"]).resize((16, 16), Image.BICUBIC)
        np.testing.assert_array_equal(image, np.asarray(expected).transpose(2, 0, 1))


def test_fingerprint_follows_annotations_and_images(folder):
    config = DataConfig(path=str(folder))
    fingerprints = [source_fingerprint(config, load_source(config))]
    Image.new("RGB", (50, 50)).save(folder / "cars_train" / "00003.jpg")
    fingerprints.append(source_fingerprint(config, load_source(config)))
    train = folder / "devkit" / "cars_train_annos.mat"
    annotations = scipy.io.loadmat(train)["annotations"]
    annotations["bbox_x1"][0, 2] = 9
    scipy.io.savemat(train, {"annotations": annotations})
    fingerprints.append(source_fingerprint(config, load_source(config)))
    assert len(set(fingerprints)) == 3
    assert source_fingerprint(config, load_source(config)) == fingerprints[-1]


def remove(path):
    return lambda folder: (folder / path).unlink()


def drop_labels(folder):
    annotations = scipy.io.loadmat(folder / "cars_test_annos_withlabels.mat")["annotations"]
    fields = [field for field in annotations.dtype.names if field != "class"]
    scipy.io.savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": repack_fields(annotations[fields])})


def wrong_class(folder):
    path = folder / "devkit" / "cars_train_annos.mat"
    annotations = scipy.io.loadmat(path)["annotations"]
    annotations["class"][0, 0] = 5
    scipy.io.savemat(path, {"annotations": annotations})


@pytest.mark.parametrize(
    "damage, split, sentence",
    [
        (
            remove("devkit/cars_meta.mat"),
            "train",
            r"cars_meta.mat does not exist: extract the Stanford Cars archives into",
        ),
        (remove("devkit/cars_train_annos.mat"), "train", r"cars_train_annos.mat does not exist: extract the Stanford"),
        (remove("cars_test_annos_withlabels.mat"), "test", r"cars/cars_test_annos_withlabels.mat does not exist: "),
        (
            remove("cars_train/00002.jpg"),
            "train",
            r"cars_train lacks 1 of the 8 images named in .*, first 00002.jpg: ",
        ),
        (
            lambda f: (f / "devkit/cars_meta.mat").write_bytes(b"x"),
            "train",
            "has no readable variable 'class_names': ",
        ),
        (drop_labels, "test", r"lacks the fields \['class'\]: use the file with the class labels."),
        (wrong_class, "train", "has classes outside 1 to 4: use the devkit of the same release."),
        (
            lambda folder: None,
            "validation",
            "data.split 'validation' is not a split of Stanford Cars: choose from 'train'",
        ),
    ],
)
def test_what_is_missing_is_named(folder, damage, split, sentence):
    damage(folder)
    with pytest.raises(UserError, match=sentence):
        load_source(DataConfig(path=str(folder), split=split))
