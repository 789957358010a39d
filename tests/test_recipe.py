"""The bench of recipes: equal arithmetic for every trial, and a page that says what was recorded."""

import json
from pathlib import Path

import pytest

from benchmarks import recipe
from cardiff.diffusion.flops import training_flops
from cardiff.diffusion.networks import build_unet
from cardiff.training.optimizers import orthogonalisation_flops

ROOT = Path(__file__).parent.parent
RECORDS = sorted(ROOT.glob("docs/recipe/*.json"))


@pytest.mark.parametrize("name", ["today", "muon 4e-3 b16", "cosine", "32-64-96-128"])
def test_every_trial_gets_the_same_arithmetic(name, tmp_path):
    config, cost = recipe.trial_config(recipe.TRIALS[name], tmp_path, seed=3, budget=1e12)
    network = build_unet(config, 10)
    step = training_flops(network) * config.train.batch_size
    step += orthogonalisation_flops(network) if "today" not in name else 0
    assert config.train.max_steps == cost["steps"] == round(1e12 / step)
    assert cost["images"] == cost["steps"] * config.train.batch_size and config.train.seed == 3


def test_trials_differ_from_the_best_in_what_their_name_says():
    best = recipe.TRIALS["muon 4e-3 b16"]
    assert {**recipe.TODAY, **best} != recipe.TODAY
    for name, key in (("epsilon", "scheduler.prediction_type"), ("gamma 1", "train.min_snr_gamma")):
        trial = recipe.TRIALS[name]
        assert {k for k in trial if trial[k] != best.get(k)} == {key}


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_the_page_shows_what_was_recorded(file):
    table = recipe.markdown(json.loads(file.read_text()))
    assert table.strip() in (ROOT / "docs/recipe.md").read_text()
    known = {record["trial"]: record["overrides"] for record in json.loads(file.read_text())}
    assert all(recipe.TRIALS[name] == overrides for name, overrides in known.items())


def test_there_are_records():
    assert RECORDS
