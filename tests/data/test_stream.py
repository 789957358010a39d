import io
import json
from itertools import islice

import datasets
import numpy as np
import pytest
from PIL import Image

from cardiff.config.sections import DataConfig
from cardiff.data import ImageStream, UnreadableImage
from cardiff.errors import UserError

FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])})
ROWS = 50


def png(value):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(folder, bad=(), labels=None):
    """Two files of 30 and 20 rows, in small row groups; image n is of the grey n and of class n % 3."""
    labels = [row % 3 for row in range(ROWS)] if labels is None else labels
    images = [{"bytes": b"broken" if row in bad else png(row), "path": None} for row in range(ROWS)]
    paths = []
    for start, stop in ((0, 30), (30, 50)):
        paths.append(str(folder / f"{start}.parquet"))
        part = datasets.Dataset.from_dict({"image": images[start:stop], "label": labels[start:stop]}, FEATURES)
        part.to_parquet(paths[-1], batch_size=7)
    return DataConfig(path="parquet", data_files=paths, resolution=4, channels=1, streaming=True, shuffle_buffer=20)


def write_folders(folder):
    for row in range(ROWS):
        (folder / "ant bee cat".split()[row % 3]).mkdir(parents=True, exist_ok=True)
        (folder / "ant bee cat".split()[row % 3] / f"{row:02d}.png").write_bytes(png(row))
    return DataConfig(path=str(folder), resolution=4, channels=1, streaming=True, shuffle_buffer=20)


@pytest.fixture(params=[write_parquet, write_folders])
def config(request, tmp_path):
    return request.param(tmp_path)


def take(config, steps, batch_size=8, positions=None, state=None, seed=3):
    """The greys (b,), labels (b,) and state of each of the next `steps` batches."""
    stream = ImageStream(config, seed, conditional=True)
    batches = stream.batches(batch_size, positions or range(batch_size), state)
    taken = []
    for images, labels, after in islice(batches, steps):
        assert images.shape == (len(labels), 1, 4, 4) and images.dtype == np.uint8 and labels.dtype == np.int64
        np.testing.assert_array_equal(images, np.broadcast_to(images[:, :1, :1, :1], images.shape))
        taken.append((images[:, 0, 0, 0].tolist(), labels.tolist(), json.loads(json.dumps(after))))
    return taken


def greys(taken):
    return [grey for batch in taken for grey in batch[0]]


def test_order_is_that_of_the_seeded_blocks(tmp_path):
    expected = []
    for epoch in range(2):
        for block, rows in enumerate((range(0, 20), range(20, 40), range(40, 50))):
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([3, epoch, block])))
            expected += [rows[i] for i in rng.permutation(len(rows))]
    taken = take(write_parquet(tmp_path), 20, batch_size=5)  # two epochs of 50
    assert greys(taken) == expected
    assert [label for batch in taken for label in batch[1]] == [row % 3 for row in expected]


def test_every_epoch_has_every_image_in_another_order(config):
    first, second = greys(take(config, 5, batch_size=10)), greys(take(config, 10, batch_size=10))[50:]
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert first != greys(take(config, 5, batch_size=10, seed=4))


def test_class_names(config):
    assert ImageStream(config, 0, conditional=True).class_names == ["ant", "bee", "cat"]


def place(state):
    """Without the `datasets` state, which has several forms for one place."""
    return state["epoch"], state["block"], state["offset"]


def assert_same(taken, expected):
    assert [(*batch[:2], place(batch[2])) for batch in taken] == [(*batch[:2], place(batch[2])) for batch in expected]


def test_resuming_after_any_batch(config):
    # Batches of 8 end inside blocks of 20, at their ends, and (after 50 images) across the end of the epoch.
    whole = take(config, 14)
    for step in range(13):
        assert_same(take(config, 13 - step, state=whole[step][2]), whole[step + 1 :])


def test_resuming_after_every_batch(config):
    whole, state = take(config, 20), None
    for expected in whole:
        batch = take(config, 1, state=state)
        assert_same(batch, [expected])
        state = batch[0][2]


def test_resuming_at_the_end_of_a_block_and_of_an_epoch(config):
    whole = take(config, 12, batch_size=10)
    assert [place(state) for _, _, state in whole[:6]] == [
        (0, 0, 10),
        (0, 0, 20),
        (0, 1, 10),
        (0, 1, 20),
        (0, 2, 10),
        (1, 0, 10),
    ]
    for step in (1, 3, 4):
        assert_same(take(config, 11 - step, batch_size=10, state=whole[step][2]), whole[step + 1 :])


def test_block_larger_than_the_set(config):
    config.shuffle_buffer = 1000
    whole = take(config, 14)
    assert sorted(greys(whole)[:50]) == list(range(ROWS))
    assert_same(take(config, 7, state=whole[6][2]), whole[7:])


@pytest.mark.parametrize("bad", [(), (3, 4, 21, 45)])
def test_any_split_over_processes_gives_the_same_images(tmp_path, bad):
    config = write_parquet(tmp_path, bad)
    config.on_error = "skip"
    whole = take(config, 10, positions=range(8))
    for count in (2, 4, 8):
        shares = [take(config, 10, positions=range(8 * i // count, 8 * (i + 1) // count)) for i in range(count)]
        for step in range(10):
            assert [grey for share in shares for grey in share[step][0]] == whole[step][0]
            assert [label for share in shares for label in share[step][1]] == whole[step][1]
            assert all(share[step][2] == whole[step][2] for share in shares)


def test_two_iterators_of_one_stream_do_not_disturb_each_other(config):
    stream = ImageStream(config, 3, conditional=True)
    one, two = stream.batches(8, range(8)), stream.batches(8, range(8))
    expected = [batch[0] for batch in take(config, 10)]
    for step in range(10):
        assert next(one)[0][:, 0, 0, 0].tolist() == expected[step]
        if step % 2:
            assert next(two)[0][:, 0, 0, 0].tolist() == expected[step // 2]


def test_unreadable_image_is_replaced_by_its_predecessor(tmp_path, caplog):
    good = greys(take(write_parquet(tmp_path), 10, batch_size=5))
    first, middle = good[0], good[7]  # of block 0, so the first one's predecessor is the block's last
    config = write_parquet(tmp_path, bad=(first, middle))
    with pytest.raises(UnreadableImage, match=rf"row {first} of split 'train' cannot be read \(not an image"):
        take(config, 1)

    config.on_error = "skip"
    expected = good[:]
    expected[0], expected[7] = good[19], good[6]
    stream = ImageStream(config, 3, conditional=True)
    taken = list(islice(stream.batches(5, range(5)), 10))
    assert [int(image[0, 0, 0]) for images, _, _ in taken for image in images] == expected
    assert [int(label) for _, labels, _ in taken for label in labels] == [grey % 3 for grey in expected]
    assert sorted(stream.skipped) == sorted((first, middle))
    assert stream.skipped[middle] == {
        "row": middle,
        "name": f"row {middle} of split 'train'",
        "reason": "not an image of a known format",
    }
    assert len(caplog.messages) == 2
    list(islice(stream.batches(5, range(5)), 10))
    assert len(caplog.messages) == 2  # once per image


def test_block_without_a_readable_image(tmp_path):
    config = write_parquet(tmp_path, bad=range(20))
    config.on_error = "skip"
    with pytest.raises(UserError, match="Block 0 of parquet has no readable image: check the files."):
        take(config, 1)


def test_label_that_is_missing(tmp_path):
    config = write_parquet(tmp_path, labels=[-1] * ROWS)
    with pytest.raises(UserError, match=r"row \d+ of split 'train' of parquet has the label -1, outside 0 to 2"):
        take(config, 1)
    _, labels, _ = next(ImageStream(config, 3, conditional=False).batches(8, range(8)))
    assert labels.tolist() == [-1] * 8


def test_label_below_the_first(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    columns = {"image": [{"bytes": png(0), "path": None}] * 2, "label": [1, 0]}
    datasets.Dataset.from_dict(columns, features).save_to_disk(tmp_path / "saved")
    config = DataConfig(path=str(tmp_path / "saved"), resolution=4, channels=1, streaming=True, first_label=1)
    with pytest.raises(UserError, match=r"^row 1 of split 'train' of .* has the label 0, outside 1 to 1: correct"):
        take(config, 1, batch_size=2)


def test_without_labels(tmp_path):
    config = write_parquet(tmp_path)
    config.label_column = "none"
    stream = ImageStream(config, 3, conditional=False)
    images, labels, _ = next(stream.batches(8, range(2, 4)))
    assert images.shape == (2, 1, 4, 4) and labels is None and stream.class_names == []
    with pytest.raises(UserError, match="data.label_column 'none' is not a column of parquet"):
        ImageStream(config, 3, conditional=True)


def test_empty_stream(tmp_path):
    path = tmp_path / "empty.parquet"
    datasets.Dataset.from_dict({"image": [], "label": []}, FEATURES).to_parquet(path)
    config = DataConfig(path="parquet", data_files=str(path), streaming=True)
    with pytest.raises(UserError, match="data.split 'train' of parquet is empty: choose a split that has images."):
        take(config, 1)
