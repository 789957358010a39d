"""Folders of images: the three layouts, what a manifest says, and what is refused in a sentence."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cardiff.config.sections import DataConfig
from cardiff.data import load_source
from cardiff.errors import UserError
from cardiff.evaluation.images import read_folder
from cardiff.hub.serialization import save_pipeline
from cardiff.sampling.options import SampleOptions
from cardiff.sampling.sample import run
from tests.support.tiny_models import NAMES, tiny_pipeline

CLASSES = list(NAMES.values())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "model"
    save_pipeline(tiny_pipeline(channels=3), folder)
    return folder


@pytest.fixture
def options(model, tmp_path):
    return SampleOptions(str(model), output=str(tmp_path / "drawn"), num_images=5, steps=2, batch_size=2)


def picture(seed: int, size=(6, 6), mode="RGB") -> Image.Image:
    shape = (*size[::-1], len(mode)) if mode != "L" else size[::-1]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def write(folder, *names, **options) -> list[np.ndarray]:
    """Pictures under these names; returns their pixels (C, H, W)."""
    pixels = []
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed, **options).save(folder / name)
        array = np.asarray(Image.open(folder / name))
        pixels.append(array.reshape(*array.shape[:2], -1).transpose(2, 0, 1))
    return pixels


# Layouts


def test_a_flat_folder(tmp_path):
    pixels = write(tmp_path, "b.png", "a.JPG", "c.webp", "d.tif", "e.bmp")
    (tmp_path / "notes.txt").write_text("no image")
    found = read_folder(tmp_path)
    assert found.names == ["a.JPG", "b.png", "c.webp", "d.tif", "e.bmp"]
    np.testing.assert_array_equal(found.images, [pixels[1], pixels[0], *pixels[2:]])
    assert found.images.dtype == np.uint8 and found.images.flags.c_contiguous
    assert found.labels is found.class_names is found.evaluations is None and found.protocol == {}
    assert found.of_classes(CLASSES).labels is None


def test_a_folder_with_a_subfolder_a_class(tmp_path):
    pixels = write(tmp_path, "bee/0.png", "ant/1.png", "bee/deeper/2.png")
    found = read_folder(str(tmp_path))
    assert found.names == ["ant/1.png", "bee/0.png", "bee/deeper/2.png"]
    np.testing.assert_array_equal(found.images, [pixels[1], pixels[0], pixels[2]])
    assert found.labels.tolist() == [0, 1, 1] and found.class_names == {0: "ant", 1: "bee"}
    assert found.of_classes(["cat", "bee", "ant"]).labels.tolist() == [2, 1, 1]
    assert found.of_classes([]).labels is None
    with pytest.raises(UserError, match="The images have the class 'bee', which is not in the data: rename"):
        found.of_classes(["ant", "wasp"])


def test_images_beside_the_classes_are_of_no_class(tmp_path, caplog):
    pixels = write(tmp_path, "bee/1.png", "stray.png", "ant/1.png")
    found = read_folder(tmp_path)
    assert found.names == ["ant/1.png", "bee/1.png", "stray.png"] and found.labels.tolist() == [0, 1, -1]
    np.testing.assert_array_equal(found.images, [pixels[2], pixels[0], pixels[1]])
    assert not caplog.messages
    assert found.of_classes(["ant", "bee"]).labels is None
    assert caplog.messages == [
        "1 images are outside the class folders, first stray.png: all images are measured without labels."
    ]


def test_folders_are_read_as_for_training(tmp_path, caplog):
    """The same files, in the same order, of the same classes, and the same words about the others."""
    names = ["train/10.png", "train/2.png", "dog/2020/1.Png", "x::y/deep/er/[1].gif", "dog/.hidden.png", "dog/a.heic"]
    write(tmp_path, *names[:3])
    for name in names[3:]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(0).save(tmp_path / name, "PNG")
    found = read_folder(tmp_path)
    said, _ = list(caplog.messages), caplog.clear()
    source = load_source(DataConfig(path=str(tmp_path)), conditional=True)
    assert [str(tmp_path / name) for name in found.names] == [row["path"] for row in source["image"]]
    assert list(found.class_names.values()) == source.features["label"].names == ["dog", "train", "x::y"]
    assert found.labels.tolist() == source["label"][:] == [0, 1, 1, 2]
    assert said == caplog.messages and "1 .heic" in said[0] and len(said) == 1


def test_a_folder_of_sample_py(options):
    folder = run(replace(options, guidance_scale=[2], labels="bee,ant"))
    found = read_folder(folder)
    assert found.names == [f"{i:06d}.png" for i in range(5)]
    drawn = [np.asarray(Image.open(folder / name)).transpose(2, 0, 1) for name in found.names]
    np.testing.assert_array_equal(found.images, drawn)
    assert found.labels.tolist() == [1, 0, 1, 0, 1] and found.labels.dtype == np.int64
    assert found.class_names == {0: "ant", 1: "bee"}
    entry = json.loads((folder / "manifest.jsonl").read_text().splitlines()[0])
    assert found.protocol == {
        key: entry[key] for key in entry.keys() - {"file", "index", "seed", "label", "name", "evaluations"}
    }
    assert {"weights_sha256", "solver", "steps", "guidance_scale"} <= found.protocol.keys()
    assert found.evaluations == entry["evaluations"]


def test_a_manifest_s_labels_are_matched_by_name(options):
    """A data set may have the model's classes in another order, with others between."""
    found = read_folder(run(options))
    assert found.class_names == NAMES
    assert found.of_classes(CLASSES).labels.tolist() == [0, 1, 2, 0, 1] == found.labels.tolist()
    assert found.of_classes(["cat, black", "dog", "bee", "ant"]).labels.tolist() == [3, 2, 0, 3, 2]
    with pytest.raises(UserError, match="the class 'ant', which is not in the data"):
        found.of_classes(["bee", "cat, black", "wasp"])


def test_what_differs_between_images_is_no_protocol(options):
    """Two guidance scales: the mean of the evaluations, and labels that are mixtures are no labels."""
    found = read_folder(run(replace(options, guidance_scale=[1, 3], labels="ant,0.5*ant+0.5*bee", num_images=4)))
    assert "guidance_scale" not in found.protocol and found.protocol["steps"] == 2
    lines = [json.loads(line) for line in (open(f"{options.output}/manifest.jsonl"))]
    for name in found.evaluations:
        assert found.evaluations[name] == np.mean([line["evaluations"][name] for line in lines])
    assert found.labels is None and found.class_names is None


# Pictures


def test_grey_stays_grey_only_if_all_are(tmp_path):
    pixels = write(tmp_path, "0.png", "1.png", mode="L")
    found = read_folder(tmp_path)
    assert found.images.shape == (2, 1, 6, 6)
    np.testing.assert_array_equal(found.images, pixels)
    picture(9).save(tmp_path / "2.png")
    mixed = read_folder(tmp_path)
    assert mixed.images.shape == (3, 3, 6, 6)
    np.testing.assert_array_equal(mixed.images[:2], np.repeat(pixels, 3, axis=1))


def test_pictures_are_decoded_as_for_training(tmp_path):
    """Transparency on white, 16 bits scaled."""
    Image.new("RGBA", (6, 6), (10, 20, 30, 0)).save(tmp_path / "0.png")
    Image.fromarray(np.full((6, 6), 257 * 100, np.uint16)).save(tmp_path / "1.png")
    found = read_folder(tmp_path)
    assert (found.images[0] == 255).all() and (found.images[1] == 100).all()


# What is refused


def broken(folder):
    write(folder, "0.png", "1.png")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])


def several_sizes(folder):
    write(folder, "0.png", "1.png")
    picture(2, (8, 8)).save(folder / "2.png")


def several_heights(folder):
    write(folder, "0.png")
    picture(1, (6, 8)).save(folder / "1.png")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: folder.rmdir(), "pictures is not a folder: give a folder of images."),
        (lambda folder: None, "pictures contains no images: give another folder."),
        (lambda folder: (folder / "a.txt").write_text(""), "pictures contains no images: give another folder."),
        (broken, "1.png cannot be read ("),
        (several_heights, "several sizes (0.png has 6x6, 1.png has 6x8): resize them."),
        (several_sizes, "several sizes (0.png has 6x6, 2.png has 8x8): resize them."),
        (lambda folder: write(folder, "0.png", size=(6, 4)), "0.png has 6x4 pixels, but images must be square"),
        (
            lambda folder: write(folder, "test/a/0.png", "train/a/1.png"),
            "contains the splits test, train: give one of",
        ),
        (lambda folder: (folder / "manifest.jsonl").write_text("{"), "is not a manifest of sample.py"),
        (lambda folder: (folder / "manifest.jsonl").write_text('{"index": 0}\n'), "is not a manifest of sample.py"),
        (lambda folder: (folder / "manifest.jsonl").write_text(""), "manifest.jsonl lists no images"),
        (lambda folder: (folder / "manifest.jsonl").write_text("[" * 100_000), "line 1 is nested too deeply"),
        (lambda folder: (folder / "manifest.jsonl").write_bytes(b"\xff\xfe"), "is not a manifest of sample.py"),
    ],
)
def test_what_is_refused(make, sentence, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError) as error:
        read_folder(folder)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"file": "../000001.png"}, "names the file '../000001.png'"),
        ({"file": "/etc/passwd"}, "names the file '/etc/passwd'"),
        ({"file": ".."}, "names the file '..'"),
        ({"file": 3}, "is not a manifest of sample.py"),
        ({"file": "000000.png"}, "lists an image twice"),
        ({"label": True}, "has a label of a wrong type"),
        ({"label": "ant"}, "has a label of a wrong type"),
        ({"label": 1, "name": None}, "has a label of a wrong type"),
        ({"evaluations": [3]}, "is not a manifest of sample.py"),
        ({"evaluations": {"unet": "4"}}, "has evaluations of a wrong type"),
        ({"evaluations": {"other": 4}}, "say different things"),
        ({"evaluations": {"unet": math.nan}}, "is not a manifest of sample.py"),
        ({"label": 0}, "manifest.jsonl and the image 000001.png say different things"),
        ({"steps": 3}, "say different things"),
    ],
)
def test_a_manifest_that_was_changed(changes, sentence, options):
    """The same command writes it again, from what the images themselves say."""
    folder = run(replace(options, labels="ant,bee"))
    manifest = folder / "manifest.jsonl"
    lines = manifest.read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), **changes})
    manifest.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as error:
        read_folder(folder)
    assert sentence in str(error.value)
    assert "run the same sample.py command again" in str(error.value)
    run(replace(options, labels="ant,bee"))
    assert read_folder(folder).labels.tolist() == [0, 1, 0, 1, 0]


def test_images_that_another_program_saved_again(options):
    """They have lost what they say of themselves, and the manifest is believed."""
    folder = run(replace(options, labels="ant,bee"))
    for file in folder.glob("*.png"):
        Image.open(file).convert("RGB").save(file)
    assert read_folder(folder).labels.tolist() == [0, 1, 0, 1, 0]


def test_a_bit_of_a_drawn_image(options):
    folder = run(options)
    whole = (folder / "000002.png").read_bytes()
    before = read_folder(folder).images
    for bit in range(0, 8 * len(whole), 61):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        (folder / "000002.png").write_bytes(content)
        try:
            np.testing.assert_array_equal(read_folder(folder).images, before)
        except UserError as error:
            assert "000002.png" in str(error)


def test_sampling_that_was_interrupted(options):
    folder = run(options)
    (folder / "000003.png").unlink()
    with pytest.raises(UserError, match=r"lacks 000003.png of its manifest: run the same sample.py command again\."):
        read_folder(folder)
    (folder / "manifest.jsonl").unlink()
    with pytest.raises(UserError, match=r"is incomplete: run the same sample.py command again to finish it\."):
        read_folder(folder)
    run(options)
    assert len(read_folder(folder).images) == 5
