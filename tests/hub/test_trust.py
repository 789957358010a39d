"""Models of anybody: nothing is followed out of their folder, and nothing absurd reaches torch."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UniPCMultistepScheduler
from safetensors.torch import load_file, save_file

from cardiff.errors import UserError
from cardiff.hub import trust
from cardiff.hub.serialization import (
    export_model,
    load_classifier,
    load_pipeline,
    save_classifier,
    save_pipeline,
    weights_file,
)
from cardiff.integrity import write_checksums
from cardiff.schedulers import CosineScheduler
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import tiny_pipeline, tiny_unet


@pytest.fixture
def folder(tmp_path):
    save_pipeline(tiny_pipeline(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def reader(tmp_path):
    save_classifier(tiny_classifier(), CosineScheduler().to_stock(), tmp_path / "reader")
    return tmp_path / "reader"


def rewrite(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


CONFIGS = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
FOREIGN = {
    "a string": '"user/other"',
    "a path": '"/etc"',
    "a list": '["user/other"]',
    "a number": "1",
    "null": "null",
    "deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "NaN": '{"a": NaN}',
    "infinite": '{"a": 1e999}',
    "bytes": "\x00",
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_is_no_object_is_refused_before_diffusers_sees_it(name, text, folder, monkeypatch):
    def reached(*_, **__):
        raise AssertionError("diffusers was given it")

    (folder / name).write_text(text)
    for kind in (DDPMScheduler, torch.nn.Module):
        monkeypatch.setattr(kind, "from_pretrained", reached, raising=False)
    with pytest.raises(UserError) as error:
        load_pipeline(folder)
    assert f"{folder / name} " in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_string_does_not_lead_to_another_folder(folder, tmp_path):
    """diffusers alone would load the scheduler of the other folder."""
    other = tmp_path / "other"
    save_pipeline(tiny_pipeline(CosineScheduler(num_train_timesteps=7).to_stock()), other)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(str(other / "scheduler")))
    with pytest.raises(UserError, match="must contain an object, not str"):
        load_pipeline(folder)


UNETS = {
    "channels beyond all measure": ({"block_out_channels": [8, 10**9]}, "must be at most 1,000,000"),
    "more channels than weights": ({"block_out_channels": [8, 500_000]}, "of the shape"),
    "layers without end": ({"layers_per_block": 10**5}, "must be at most 100"),
    "resolutions without end": ({"block_out_channels": [8] * 99}, "must list at most 32"),
    "images without end": ({"sample_size": 10**5}, "must be at most 16,384"),
    "a wrong type": ({"norm_eps": "x"}, 'norm_eps is "x", but must be float'),
    "a text for a list": ({"down_block_types": "DownBlock2D"}, "down_block_types is .*, but must be tuple"),
    "a truth in text": ({"flip_sin_to_cos": "false"}, "flip_sin_to_cos is .*, but must be bool"),
    "no size": ({"sample_size": None}, "damaged or incomplete"),
    "a negative size": ({"sample_size": -8}, "damaged or incomplete"),
    "a size that is no multiple": ({"sample_size": 7}, "damaged or incomplete"),
    "an unknown activation": ({"act_fn": "nope"}, "damaged or incomplete"),
    "a code that is not there": ({"down_block_types": ["os.system", "DownBlock2D"]}, "damaged or incomplete"),
    "quantized": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "asks for quantized weights"),
    "labels that are no index": ({"num_class_embeds": None, "class_embed_type": "timestep"}, "damaged or incomplete"),
}


@pytest.mark.parametrize(("changes", "sentence"), UNETS.values(), ids=UNETS)
def test_arguments_of_a_network_that_are_absurd(changes, sentence, folder):
    rewrite(folder / "unet/config.json", **changes)
    with pytest.raises(UserError, match=sentence) as error:
        load_pipeline(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_other_types_of_weights(folder):
    tensors = load_file(weights_file(folder))
    tensors["conv_out.bias"] = tensors["conv_out.bias"].to(torch.int32)
    save_file(tensors, weights_file(folder), metadata={"format": "pt"})
    with pytest.raises(UserError, match="conv_out.bias of the type I32, but must be floats"):
        load_pipeline(folder)


def test_a_network_that_makes_other_images_than_it_is_given(tmp_path):
    """Such as one that predicts a variance too."""
    pipeline = tiny_pipeline()
    unet = type(pipeline.unet).from_config({**pipeline.unet.config, "out_channels": 2})
    save_pipeline(DDPMPipeline(unet, pipeline.scheduler), tmp_path)
    with pytest.raises(UserError, match=r"makes \[2, 8, 8\] of images \[1, 8, 8\]"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize("size", [2**63, 2**30, 0])
def test_a_header_of_weights_that_is_absurd(size, folder):
    weights_file(folder).write_bytes(size.to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match="damaged or incomplete"):
        load_pipeline(folder)


BETAS = json.loads(json.dumps(CosineScheduler().to_stock().betas.tolist()))
SCHEDULES = {
    "zero": ({"trained_betas": [0.0, *BETAS[1:]]}, "beta 0 is 0, but must lie between 0 and 1"),
    "negative": ({"trained_betas": [*BETAS[:5], -0.1, *BETAS[6:]]}, "beta 5 is -0.1,"),
    "one, and steps after it": ({"trained_betas": [*BETAS[:5], 1.0, *BETAS[6:]]}, "beta 5 is 1,"),
    "above one": ({"trained_betas": [*BETAS[:-1], 1.5]}, "beta 999 is 1.5,"),
    "text": ({"trained_betas": ["x", *BETAS[1:]]}, "trained_betas is .*, but must be list"),
    "too few": ({"trained_betas": BETAS[:5]}, "trained_betas has 5 values, but num_train_timesteps is 1000"),
    "none": ({"trained_betas": [], "num_train_timesteps": 0}, "damaged or incomplete"),
    "an end above one": ({"trained_betas": None, "beta_end": 2.0}, "but must lie between 0 and 1"),
    "a negative start": ({"trained_betas": None, "beta_start": -1e-4}, "beta 0 is -0.0001,"),
    "a schedule that is not": ({"trained_betas": None, "beta_schedule": "x"}, 'beta_schedule is "x", but must be'),
    "steps without end": ({"trained_betas": None, "num_train_timesteps": 10**9}, "must be at most 1,000,000"),
    "a prediction that is not": ({"prediction_type": "x"}, 'prediction_type is "x", but must be'),
    "a spacing that is not": ({"timestep_spacing": 3}, "timestep_spacing is 3, but must be"),
}


@pytest.mark.parametrize(("changes", "sentence"), SCHEDULES.values(), ids=SCHEDULES)
def test_noise_levels_that_are_none(changes, sentence, folder, reader):
    for model, load in ((folder, load_pipeline), (reader, load_classifier)):
        rewrite(model / "scheduler/scheduler_config.json", **changes)
        with pytest.raises(UserError, match=sentence) as error:
            load(model)
        assert str(model) in str(error.value) and "\n" not in str(error.value)


def test_noise_alone_at_the_end_is_a_schedule(folder):
    rewrite(folder / "scheduler/scheduler_config.json", trained_betas=[*BETAS[:-1], 1.0])
    assert load_pipeline(folder).scheduler.alphas_cumprod[-1] == 0


def test_solvers_as_they_are_saved_load(folder):
    pipeline = load_pipeline(folder)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    save_pipeline(pipeline, folder)
    assert type(load_pipeline(folder).scheduler) is UniPCMultistepScheduler


READERS = {
    "channels": ({"block_out_channels": [8, 10**9]}, "must be at most"),
    "levels of text": ({"alphas_cumprod": "abc"}, "alphas_cumprod is .*, but must be Sequence"),
    "images": ({"sample_size": 16}, "of the shape"),
    "names": ({"id2label": [1, 2]}, "id2label is .*, but must be dict"),
}


@pytest.mark.parametrize(("changes", "sentence"), READERS.values(), ids=READERS)
def test_arguments_of_a_classifier_that_are_absurd(changes, sentence, reader):
    rewrite(reader / "classifier/config.json", **changes)
    with pytest.raises(UserError, match=sentence):
        load_classifier(reader)


# Checksums


@pytest.mark.parametrize("name", [*CONFIGS, "unet/diffusion_pytorch_model.safetensors"])
def test_a_flipped_bit_is_refused_whoever_opens_the_folder(name, folder, tmp_path):
    write_checksums(folder, leave_out=["README.md"])
    load_pipeline(folder)
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    for opened in (load_pipeline, lambda f: export_model(f, tmp_path / "out")):
        with pytest.raises(UserError, match=f"is damaged .{name} does not match its checksum") as error:
            opened(folder)
        assert "remove checksums.json" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_flipped_bit_of_a_classifier_is_refused(reader, tmp_path):
    write_checksums(reader)
    load_classifier(reader)
    rewrite(reader / "classifier/config.json", dropout=0.5)
    with pytest.raises(UserError, match="classifier/config.json does not match its checksum"):
        load_classifier(reader)


def test_what_was_downloaded_in_part_loads(folder):
    write_checksums(folder)
    (folder / "pipeline_class_conditional.py").unlink()
    assert load_pipeline(folder).id2label


# Links


@pytest.mark.parametrize("name", [*CONFIGS, "unet/diffusion_pytorch_model.safetensors", "run.json", "unet"])
def test_a_link_out_of_the_folder_is_not_exported(name, folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    if (folder / name).exists():
        shutil.move(folder / name, elsewhere)
    else:
        elsewhere.write_text("{}")
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match=f"{folder / name}.* is a link that leads out of {folder}"):
        export_model(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_within_the_folder_and_to_it_are_followed(folder, tmp_path):
    (folder / "unet/config.json").rename(folder / "kept.json")
    (folder / "unet/config.json").symlink_to("../kept.json")
    (tmp_path / "name").symlink_to(folder)
    export_model(tmp_path / "name", tmp_path / "out")
    assert (tmp_path / "out/unet/config.json").is_file()


def test_the_cache_of_the_hub_links_to_what_lies_beside(folder, tmp_path):
    snapshot = tmp_path / "models--user--model/snapshots/abc"
    shutil.copytree(folder, snapshot)
    (snapshot.parent.parent / "blobs").mkdir()
    shutil.move(snapshot / "unet/config.json", snapshot.parent.parent / "blobs/1")
    (snapshot / "unet/config.json").symlink_to("../../../blobs/1")
    trust.refuse_links([snapshot / "unet/config.json"], snapshot)
    (snapshot / "model_index.json").unlink()
    os.symlink(tmp_path / "model/model_index.json", snapshot / "model_index.json")
    with pytest.raises(UserError, match="leads out of"):
        trust.refuse_links([Path(snapshot / "model_index.json")], snapshot)


def test_old_unconditional_models_of_others_load(tmp_path):
    """As diffusers wrote them years ago: fewer arguments, and some that it has no longer."""
    save_pipeline(DDPMPipeline(tiny_unet(None), DDPMScheduler()), tmp_path)
    config = json.loads((tmp_path / "unet/config.json").read_text())
    for name in ("add_attention", "class_embed_type", "num_class_embeds", "resnet_time_scale_shift"):
        config.pop(name)
    (tmp_path / "unet/config.json").write_text(json.dumps({**config, "mid_block_scale_factor": 1, "gone": [1]}))
    assert load_pipeline(tmp_path).id2label == {}
