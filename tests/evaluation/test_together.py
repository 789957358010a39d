"""Measurements by two connected processes: they never wait for each other for ever, and find what one finds."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cardiff.config.sections import DataConfig
from cardiff.distributed import gather_dict
from cardiff.errors import UserError
from cardiff.evaluation import protocol as protocol_module
from cardiff.evaluation.estimator import Estimator
from cardiff.evaluation.evaluate import run as evaluate
from cardiff.evaluation.features.extraction import extract, open_real
from cardiff.evaluation.features.networks import load_network
from cardiff.evaluation.options import CompareOptions
from cardiff.evaluation.reports.comparison import run as compare
from cardiff.sampling.draw import settle_precision
from cardiff.sampling.options import DrawOptions
from tests.support.processes import together
from tests.support.reports import metrics_of

JUDGED = "fid,kid,accuracy,diversity"


@pytest.fixture
def judged(world, options):
    """Held-out images, and a classifier that is not the network of the features."""
    return replace(
        options, metrics=JUDGED, validation_data=str(world["held_out"]), accuracy_classifier=str(world["judge"])
    )


def found_by(outcomes):
    """What all of them have returned, or the first error."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


@pytest.mark.parametrize(
    "given",
    [
        "images",
        "model",
        *(pytest.param(given, marks=pytest.mark.slow) for given in ("several seeds", "its network is the classifier")),
    ],
)
def test_evaluation(given, world, judged, tmp_path):
    if given == "images":
        options = replace(judged, images=str(world["train"].with_suffix("")), num_images=30)
    else:
        options = replace(judged, model=str(world["model"]), num_images=20, keep_images=False)
    if given == "several seeds":
        options = replace(options, seeds=[0, 1], export_reference=str(tmp_path / "statistics.safetensors"))
    if given == "its network is the classifier":
        options.network = options.accuracy_classifier
    found_by(together(lambda rank: evaluate(options)))
    two = metrics_of(Path(options.output))
    one = metrics_of(evaluate(replace(options, output=str(tmp_path / "one"))))
    assert two["held_out"] is not None and two["held_out"] == one["held_out"]
    assert two["metrics"] == one["metrics"] and two["confusion"] == one["confusion"]
    assert not (Path(options.output) / "images").exists()


def comparing(world, judged):
    shared = {name: getattr(judged, name) for name in ("reference", "network", "replicates")} | {"batch_size": 8}
    return CompareOptions(
        output=judged.output, runs=[f"a={world['model']}", f"b={world['twin']}"], metrics=JUDGED, steps=[2],
        guidance_scale=[0, 3], num_images=16, halving_rounds=1, validation_data=str(world["held_out"]),
        accuracy_classifier=str(world["judge"]), **shared,
    )  # fmt: skip


def test_comparison(world, judged, tmp_path):
    options = comparing(world, judged)
    found_by(together(lambda rank: compare(options)))
    two = (Path(options.output) / "comparison.json").read_text()
    assert two == (compare(replace(options, output=str(tmp_path / "one"))) / "comparison.json").read_text()


def test_processors_that_round_differently_take_the_same_branch(world, judged, monkeypatch):
    """The better half is chosen by figures of the main process, whatever the others would find."""
    options, original = comparing(world, judged), Estimator.measure

    def measure(self, *args, **kwargs):
        measured = original(self, *args, **kwargs)
        if os.environ.get("RANK") == "1":
            measured.estimates["fid"] = replace(measured.estimates["fid"], value=-measured.estimates["fid"].value)
        return measured

    monkeypatch.setattr(Estimator, "measure", measure)
    monkeypatch.setattr("cardiff.evaluation.reports.comparison.write_comparison", lambda *args: None)
    found_by(together(lambda rank: compare(options)))


def test_known_trials_are_those_of_the_main_process(world, judged, monkeypatch):
    """As if the disk of the second had not yet got the file of the first."""
    options = replace(comparing(world, judged), halving_rounds=0, guidance_scale=[1], num_images=8)
    monkeypatch.setattr("cardiff.evaluation.reports.comparison.write_comparison", lambda *args: None)
    compare(options)
    read_text = Path.read_text

    def late(path, *args, **kwargs):
        text = read_text(path, *args, **kwargs)
        return "" if path.name == "trials.jsonl" and os.environ.get("RANK") == "1" else text

    monkeypatch.setattr(Path, "read_text", late)
    found_by(together(lambda rank: compare(options)))


def test_all_processes_draw_in_the_precision_of_the_main_one(monkeypatch):
    """Though one has a GPU that multiplies in bf16 and the other none."""

    def dtype(precision, device):
        return torch.bfloat16 if os.environ["RANK"] == "1" else torch.float32

    def settle(rank):
        options = DrawOptions()
        settle_precision(options)
        return options.precision

    monkeypatch.setattr("cardiff.sampling.draw.evaluation_dtype", dtype)
    assert together(settle) == ["float32", "float32"]


# Caches


def machine(tmp_path):
    """Each process is the first on a machine of its own, with a cache of its own."""
    return lambda rank: {"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "CARDIFF_CACHE": tmp_path / f"machine-{rank}"}


def features_in(cache):
    return sorted(file.parent.name for file in cache.glob("features/*/features.npy"))


def test_machines_without_a_common_disk_have_a_cache_each(world, tmp_path, monkeypatch):
    """Also where only one of them has the images and the features already."""
    config = DataConfig(path=str(world["train"].with_suffix("")), resolution=8, channels=1)

    def measure(rank):
        network = load_network("pixels", device=torch.device("cpu"))
        real = open_real(config, network, 16, 1000)
        return real.key, np.asarray(real.features).sum()

    monkeypatch.setenv("CARDIFF_CACHE", str(tmp_path / "machine-0"))
    key, total = measure(0)
    monkeypatch.undo()
    assert features_in(tmp_path / "machine-0") == [key] and not (tmp_path / "machine-1").exists()
    assert found_by(together(measure, env=machine(tmp_path))) == [(key, total)] * 2
    assert features_in(tmp_path / "machine-1") == [key]
    # Now both have them, and nothing is computed.
    monkeypatch.setattr("cardiff.evaluation.features.extraction.extract", None)
    assert found_by(together(measure, env=machine(tmp_path))) == [(key, total)] * 2


# The work


@pytest.mark.parametrize("count", [1, 40, 41])
def test_the_passes_are_shared_evenly_and_the_result_lies_where_it_is_needed(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)

    def measure(rank):
        network, passes = load_network("pixels", device=torch.device("cpu")), []
        features, logits = extract(network, images, 4, passes.append)
        everywhere, _ = extract(network, images, 4, everywhere=True)
        return passes, features, everywhere, logits

    outcomes = found_by(together(measure))
    expected = images.reshape(count, 16) / np.float32(255)
    for rank, (_, features, everywhere, logits) in enumerate(outcomes):
        assert logits is None
        np.testing.assert_array_equal(everywhere, expected)
        np.testing.assert_array_equal(features, expected if rank == 0 else np.empty((0, 0)))
    first, second = (passes for passes, *_ in outcomes)
    assert sum(first) + sum(second) == count and 0 <= len(first) - len(second) <= 1


def test_numbers_that_are_not_finite_end_every_process(monkeypatch):
    """Also those that have none among theirs."""
    images = np.zeros((8, 1, 2, 2), np.uint8)
    images[-1] = 1  # of the second process

    def measure(rank):
        network = load_network("pixels", device=torch.device("cpu"))
        forward = network.forward
        object.__setattr__(network, "forward", lambda batch: (forward(batch)[0] / (1 - batch.flatten(1)), None))
        extract(network, images, 4)

    assert [type(outcome) for outcome in together(measure)] == [UserError] * 2


def test_an_error_of_the_main_process_is_known_to_all(world, judged, monkeypatch):
    """Such as a full disk while the report is written: no process waits for one that has ended."""
    options = replace(judged, images=str(world["held_out"].with_suffix("")), num_images=30)
    options.validation_data = None

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cardiff.evaluation.evaluate.write_report", full)
    first, second = together(lambda rank: evaluate(options))
    assert isinstance(first, OSError) and first.errno == 28
    assert isinstance(second, UserError) and "has ended" in str(second)


def test_a_report_may_not_wait_for_the_other_processes(world, judged, monkeypatch):
    """With one process, too, so that any test of a report finds it."""
    monkeypatch.setattr("cardiff.evaluation.evaluate.write_report", lambda *args: gather_dict({}))
    with pytest.raises(AssertionError, match="would wait"):
        evaluate(replace(judged, images=str(world["train"].with_suffix("")), validation_data=None))
    assert protocol_module.on_main(lambda: 1) == 1  # and is free again
