"""Batches as a function of (seed, step): nothing is lost or doubled, whoever asks and however the work is split."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cardiff.config.sections import DataConfig
from cardiff.data import ImageStore, open_store
from cardiff.data.batches import BatchPlan, StoreBatches, batch_loader, identify, open_data, split_rows

DIGITS = str(Path(__file__).parents[2] / "data/digits.parquet")
N = 37
PLAN = BatchPlan(seed=0, batch_size=16, positions=range(16))


@pytest.fixture
def store(tmp_path):
    """37 images, each filled with its own number, and labels that follow from it; on the disk, as workers need it."""
    images = np.broadcast_to(np.arange(N, dtype=np.uint8)[:, None, None, None], (N, 1, 2, 2)).copy()
    labels = np.arange(N) % 5
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    names = list("abcde")
    meta = {"shape": list(images.shape), "class_names": names, "skipped": []}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    return ImageStore(tmp_path, np.load(tmp_path / "images.npy", mmap_mode="r"), labels, names, [])


def numbers(batch):
    return batch["images"][:, 0, 0, 0].numpy()


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for name in batch:
        torch.testing.assert_close(batch[name], other[name], rtol=0, atol=0)


def test_every_epoch_visits_every_image_once(store):
    """37 steps of 16 are 16 epochs of 37, and almost every batch spans two."""
    batches = StoreBatches(store, PLAN)
    epochs = np.concatenate([numbers(batches[step]) for step in range(N)]).reshape(16, N)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(N), (16, 1)))
    assert len(np.unique(epochs, axis=0)) == 16  # each in another order
    assert (epochs != np.arange(N)).any(axis=1).all()


def test_a_batch_larger_than_the_set(store):
    plan = replace(PLAN, batch_size=100, positions=range(100))
    seen = np.concatenate([numbers(StoreBatches(store, plan)[step]) for step in range(N)])
    np.testing.assert_array_equal(np.bincount(seen), np.full(N, 100))


def test_contents(store):
    batch = StoreBatches(store, PLAN)[2]
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()} == {
        "images": (torch.uint8, (16, 1, 2, 2)),
        "labels": (torch.int64, (16,)),
    }
    np.testing.assert_array_equal(batch["labels"].numpy(), numbers(batch) % 5)


def test_no_labels(store):
    store.labels = None
    assert "labels" not in StoreBatches(store, PLAN)[0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_validation_rows_never_appear(num_workers, store):
    """Whatever the epoch; the others each once in every one of them."""
    rows, validation = split_rows(store, 0.2, seed=3)
    assert len(validation) == 7 and sorted([*rows, *validation]) == list(range(N))
    loader = batch_loader(store, PLAN, range(len(rows)), rows=rows, num_workers=num_workers, pin_memory=False)
    epochs = np.concatenate([numbers(batch) for batch in loader]).reshape(16, len(rows))
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(rows, (16, 1)))


def test_the_seed_chooses_the_validation_rows(store):
    choices = [split_rows(store, 0.2, seed)[1].tolist() for seed in (0, 0, 1)]
    assert choices[0] == choices[1] != choices[2]


def test_no_validation_is_every_row(store):
    rows, validation = split_rows(store, 0.0, seed=0)
    assert rows.tolist() == list(range(N)) and len(validation) == 0
    assert_equal(StoreBatches(store, PLAN, rows)[3], StoreBatches(store, PLAN)[3])


def test_a_small_share_is_one_image_and_a_large_one_is_refused(store):
    assert len(split_rows(store, 1e-6, seed=0)[1]) == 1
    with pytest.raises(
        ValueError, match="train.validation_fraction is 0.99, which leaves none of 37 images to train on: lower it."
    ):
        split_rows(store, 0.99, seed=0)


@pytest.mark.parametrize("borders", [[0, 8, 16], [0, 4, 8, 12, 16], [0, 3, 16], list(range(17))])
def test_shares_make_up_the_whole(borders, store):
    for step in (0, 2, 5):
        whole = StoreBatches(store, PLAN)[step]
        shares = [
            StoreBatches(store, replace(PLAN, positions=range(first, last)))[step]
            for first, last in zip(borders, borders[1:])
        ]
        assert_equal({name: torch.cat([share[name] for share in shares]) for name in whole}, whole)


def test_seeds_and_steps_differ(store):
    batches = [
        StoreBatches(store, replace(PLAN, seed=seed))[step] for seed, step in ((0, 0), (1, 0), (0, 1), (1, 1), (0, 37))
    ]
    assert len({batch["images"].numpy().tobytes() for batch in batches}) == len(batches)
    assert_equal(StoreBatches(store, PLAN)[0], batches[0])


def test_workers_change_nothing(store):
    loaders = [batch_loader(store, PLAN, range(3, 12), num_workers=workers, pin_memory=False) for workers in (0, 2)]
    here, elsewhere = (list(loader) for loader in loaders)
    assert len(here) == len(elsewhere) == 9
    for step, one, two in zip(range(3, 12), here, elsewhere):
        assert_equal(one, two)
        assert_equal(one, StoreBatches(store, PLAN)[step])


def test_stream_batches(tmp_path):
    """The digits as a stream: one epoch without loss, as many batches as steps, and the position to go on from."""
    config = DataConfig(data_files=DIGITS, resolution=8, channels=1, streaming=True, shuffle_buffer=500)
    plan = replace(PLAN, batch_size=600, positions=range(600))
    stream = open_data(config, conditional=True, seed=0)
    assert split_rows(stream, 0.0, seed=0)[0] is None
    batches = list(batch_loader(stream, plan, range(5), num_workers=0, pin_memory=False))
    store = open_store(replace(config, streaming=False, cache_dir=str(tmp_path)), conditional=True)
    images = torch.cat([batch["images"] for batch in batches])[: len(store)].flatten(1).numpy()
    assert sorted(map(bytes, images)) == sorted(map(bytes, np.asarray(store.images).reshape(len(store), -1)))
    assert len(batches) == 5
    rest = batch_loader(stream, plan, range(2, 5), num_workers=0, pin_memory=False, stream_state=batches[1]["stream"])
    for one, two in zip(batches[2:], rest, strict=True):
        for name in ("images", "labels"):
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=0)


def test_only_a_store_has_several_workers(store, tmp_path):
    """The position of a stream is a single one: a second worker would read the same images again."""
    for row in range(3):
        (tmp_path / f"images/{row}").mkdir(parents=True)
        Image.new("L", (2, 2), row).save(tmp_path / f"images/{row}/a.png")
    config = DataConfig(path=str(tmp_path / "images"), resolution=2, channels=1, streaming=True)
    for source, workers in ((store, 2), (open_data(config, conditional=True, seed=0), 1)):
        assert batch_loader(source, PLAN, range(2), num_workers=2, pin_memory=False).num_workers == workers
        assert batch_loader(source, PLAN, range(2), num_workers=0, pin_memory=False).num_workers == 0


def test_workers_leave_signals_to_the_trainer(store):
    """Else Ctrl-C would end them before the step that is finished then has its batch."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        batch_loader(store, PLAN, range(2), num_workers=1, pin_memory=False).worker_init_fn(0)
        assert [signal.getsignal(number) for number in before] == [signal.SIG_IGN] * 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_open_data_follows_the_configuration(tmp_path):
    config = DataConfig(data_files=DIGITS, resolution=8, channels=1, cache_dir=str(tmp_path))
    assert isinstance(open_data(config, conditional=True, seed=0), ImageStore)
    assert not isinstance(open_data(replace(config, streaming=True), conditional=True, seed=0), ImageStore)


def test_what_identifies_the_images(store, monkeypatch):
    """Every image, label and their number; the images set aside by themselves; and nothing of where they lie."""
    validation = np.array([3, 30])
    before = identify(store, validation, labelled=True)

    def changed(labelled=True, **changes):
        now = identify(replace(store, **changes), validation, labelled)
        return {name for name in before if now[name] != before[name]}

    assert changed(folder=Path("elsewhere"), images=np.array(store.images)) == set()
    for row, names in ((4, {"images"}), (30, {"images", "held_out"})):
        images = np.array(store.images)
        images[row, 0, 1, 1] ^= 1
        assert changed(images=images) == names
    swapped = np.array(store.images)
    swapped[[3, 4]] = swapped[[4, 3]]
    assert changed(images=swapped) == {"images", "held_out"}
    assert changed(labels=store.labels[::-1]) == {"images"}
    assert changed(images=store.images[:-1], labels=store.labels[:-1]) == {"images"}
    unlabelled = identify(store, validation, labelled=False)
    assert unlabelled == identify(replace(store, labels=store.labels[::-1]), validation, labelled=False)
    # Of many images only some are compared, and of those set aside all.
    monkeypatch.setattr("cardiff.data.batches.COMPARED", 2)
    before = identify(store, validation, labelled=True)
    images = np.array(store.images)
    images[4] = 0
    assert changed(images=images) == set()
    images[3] = 0
    assert changed(images=images) == {"held_out"}
