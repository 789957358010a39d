"""Networks as the configuration asks for them: their classes, their images, their seed."""

import pytest
import torch
from diffusers import DDPMPipeline

from cardiff.config.network import ClassifierConfig, UNetConfig
from cardiff.config.run import RunConfig, parse_run
from cardiff.config.schedule import make_schedule
from cardiff.config.sections import ClassifierTrainConfig, ConditionalTrainConfig, DataConfig
from cardiff.diffusion.networks import build_classifier, build_pipeline, build_unet, null_class
from cardiff.errors import UserError
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


def tiny(**unet):
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    section = UNetConfig(**{"block_out_channels": [8, 16], "norm_num_groups": 4, **blocks, **unet})
    data = DataConfig(resolution=8, channels=1)
    return RunConfig("out", "conditional", data, section, {"name": "cosine"}, ConditionalTrainConfig())


def tiny_classifier(**classifier):
    section = {"block_out_channels": [8, 16], "norm_num_groups": 4, "down_block_types": ["DownBlock2D"] * 2}
    section = ClassifierConfig(**{**section, "attention_head_dim": 8, **classifier})
    data = DataConfig(resolution=8, channels=1)
    return RunConfig("out", "classifier", data, section, {"name": "cosine"}, ClassifierTrainConfig())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (tiny(norm_num_groups=5), "The section unet is not valid for UNet2DModel: "),
        (tiny(down_block_types=["DownBlock", "DownBlock2D"]), "The section unet is not valid for UNet2DModel: "),
    ],
)
def test_unets_that_do_not_fit_together(config, sentence):
    with pytest.raises(UserError, match=sentence):
        build_unet(config, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm_num_groups": 5}, "divisible"),
        ({"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}, "one of DownBlock2D and AttnDownBlock2D"),
        ({"attention_head_dim": 5}, "attention_head_dim=5 must divide the last of block_out_channels, 16."),
    ],
)
def test_classifiers_that_do_not_fit_together(options, sentence):
    scheduler = make_schedule({"name": "cosine"}).to_stock()
    with pytest.raises(UserError, match="The section classifier is not valid for NoisyClassifier: .*" + sentence):
        build_classifier(tiny_classifier(**options), scheduler, ["ant", "bee"])


def test_weights_come_from_the_seed():
    config = tiny()
    one, two = build_unet(config, 3), build_unet(config, 3)
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=0)
    config.train.seed = 1
    assert not torch.equal(build_unet(config, 3).conv_in.weight, one.conv_in.weight)
    config, scheduler = tiny_classifier(), make_schedule({"name": "cosine"}).to_stock()
    one, two = (build_classifier(config, scheduler, ["ant", "bee"]) for _ in range(2))
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=0)


def test_pipelines_of_both_kinds():
    scheduler = make_schedule({"name": "cosine"}).to_stock()
    conditional = build_pipeline(build_unet(tiny(), 2), scheduler, ["ant", "bee"])
    assert conditional.id2label == {0: "ant", 1: "bee"} and conditional.null_class == 2
    unconditional = build_pipeline(build_unet(tiny(), None), scheduler, [])
    assert type(unconditional).__name__ == "DDPMPipeline" and null_class(unconditional.unet) is None
