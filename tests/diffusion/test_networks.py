"""Networks as the configuration asks for them: their classes, their images, their seed."""

import pytest
import torch
from diffusers import DDPMPipeline

from cardiff.config.run import parse_run
from cardiff.diffusion.networks import build_classifier, build_pipeline, build_unet, null_class
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.schedulers import CosineScheduler


@pytest.fixture
def config(digits_options, tmp_path):
    return parse_run([*digits_options, "--output_dir", str(tmp_path)], kind="conditional", description="")


def test_the_null_class_comes_after_the_classes(config):
    unet, without = build_unet(config, 10), build_unet(config, None)
    assert unet.config.num_class_embeds == 11 and null_class(unet) == 10
    assert unet.class_embedding.weight.shape[0] == 11
    assert without.config.num_class_embeds is None and null_class(without) is None


def test_images_are_those_of_the_data(config):
    unet = build_unet(config, 10)
    assert (unet.config.sample_size, unet.config.in_channels, unet.config.out_channels) == (16, 1, 1)


def test_weights_are_drawn_from_the_seed_and_from_a_stream_of_their_own(config):
    def first(seed):
        config.train.seed = seed
        return build_unet(config, 10).conv_in.weight

    torch.manual_seed(3)
    plain = torch.nn.Conv2d(1, 8, 3).weight  # as a draw of the user's own from that seed begins
    assert torch.equal(first(3), first(3)) and not torch.equal(first(3), first(4))
    assert not torch.equal(first(3), plain)


def test_pipelines_are_of_the_model_s_kind(config):
    scheduler = CosineScheduler().to_stock()
    conditional = build_pipeline(build_unet(config, 2), scheduler, ["ant", "bee"])
    assert isinstance(conditional, ClassConditionalPipeline) and conditional.id2label == {0: "ant", 1: "bee"}
    assert type(build_pipeline(build_unet(config, None), scheduler, [])) is DDPMPipeline


def test_a_classifier_knows_its_noise_levels_and_classes(classifier_options, tmp_path):
    config = parse_run([*classifier_options, "--output_dir", str(tmp_path)], kind="classifier", description="")
    scheduler = CosineScheduler().to_stock()
    classifier = build_classifier(config, scheduler, ["ant", "bee"])
    assert classifier.config.alphas_cumprod == scheduler.alphas_cumprod.tolist()
    assert classifier.id2label == {0: "ant", 1: "bee"} and classifier.head.out_features == 2
    assert (classifier.config.sample_size, classifier.config.in_channels) == (16, 1)
