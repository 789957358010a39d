"""The logits of a network that belong to the classes of the data, by name."""

from contextlib import ExitStack

import pytest
import torch

from cardiff.devices import float32_products
from cardiff.errors import UserError
from cardiff.evaluation.features.network import FeatureNetwork, class_columns
from tests.support.tiny_classifier import NAMES
from tests.support.tiny_networks import CPU, load

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:FutureWarning")


def named(names) -> FeatureNetwork:
    return FeatureNetwork("the judge", "FD", {}, dict(enumerate(names)), CPU, lambda x: (x, x))


def flags() -> tuple:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("tf32", [True, False])
def test_features_are_float32_whatever_a_training_run_has_set(tf32, monkeypatch):
    seen = []

    def forward(images):
        features = images.flatten(1).float() @ torch.ones(4, 2)
        seen.append((flags(), features.dtype))
        return features, None

    network = FeatureNetwork("the judge", "FD", {}, None, CPU, forward)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with ExitStack() as training:
        training.enter_context(float32_products(tf32))
        training.enter_context(torch.autocast("cpu", torch.bfloat16))
        before = flags()
        assert before[0] == before[1] == tf32 and before[4]
        network(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
        assert flags() == before
    assert seen == [((False, False, False, True, False), torch.float32)]


def test_class_columns(folder):
    assert class_columns(named(["dog", " Bee", "ANT "]), ["ant", "bee"]) == [2, 1]
    assert class_columns(load(folder, "ours"), list(NAMES.values())[::-1]) == [2, 1, 0]


def test_case_and_spaces_of_both_sides_are_the_same():
    assert class_columns(named(["ant", "bee"]), ["BEE ", " Ant"]) == [1, 0]


def test_names_that_differ_in_case_alone_are_two_classes():
    assert class_columns(named(["dog", "Dog", "cat"]), ["Cat", "Dog", "dog"]) == [2, 1, 0]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["ant", "wasp"], r"the judge has no class called 'bee', class 1 of the data \(its own class 1 is 'wasp'\): "),
        (["ant", "wasp", "fly"], "the judge has no class called 'bee': give a classifier that was trained"),
        (["BEE", "ant", "Bee"], "the judge has 2 classes called 'bee'"),
    ],
)
def test_classes_that_do_not_fit(names, sentence):
    with pytest.raises(UserError, match=sentence):
        class_columns(named(names), ["ant", "bee"])
