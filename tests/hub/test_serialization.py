"""Folders that load elsewhere and give the same images, and loading that runs nothing and explains what is wrong."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from safetensors.torch import load_file, save_file

from cardiff import layout
from cardiff.errors import UserError
from cardiff.evaluation.samples import ModelFacts
from cardiff.hub import serialization as hub
from cardiff.hub.provenance import read_record, write_record
from cardiff.hub.serialization import (
    VARIANTS,
    export_model,
    find_model,
    load_classifier,
    load_pipeline,
    save_classifier,
    save_pipeline,
    weights_file,
)
from cardiff.pipelines import ClassConditionalPipeline, NoisyClassifier
from cardiff.schedulers import CosineScheduler, LinearScheduler, SigmoidScheduler
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import NAMES, tiny_pipeline, tiny_unet
from tests.support.without_project import run_without_project

ARGUMENTS = {"class_labels": [{"bee": 0.5, "ant": 0.5}, "cat, black"], "guidance_scale": 2.0}
ARGUMENTS |= {"guidance_interval": (-5.0, 5.0), "guidance_rescale": 0.5, "dynamic_thresholding": 0.9}
ARGUMENTS |= {"num_inference_steps": 4}


def images_of(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    return pipeline(**ARGUMENTS, generator=generators, output_type="np").images


@pytest.fixture
def folder(tmp_path):
    save_pipeline(tiny_pipeline(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("schedule", [CosineScheduler, LinearScheduler, SigmoidScheduler])
def test_save_load_same_images(schedule, tmp_path):
    pipeline = tiny_pipeline(schedule(prediction_type="v_prediction").to_stock())
    save_pipeline(pipeline, tmp_path)
    loaded = load_pipeline(tmp_path)
    assert loaded.id2label == NAMES
    torch.testing.assert_close(loaded.unet.state_dict(), pipeline.unet.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(loaded.scheduler.alphas_cumprod, pipeline.scheduler.alphas_cumprod, rtol=0, atol=0)
    # Weights mapped from a file lie at other addresses than drawn ones, which costs the last bit.
    np.testing.assert_allclose(images_of(loaded), images_of(pipeline), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(images_of(loaded), images_of(load_pipeline(tmp_path)))


@pytest.mark.parametrize("count", [12, 196])
def test_a_file_in_any_order_gives_names_in_the_order_of_their_indices(count, tmp_path):
    """JSON written with sorted keys has 10 before 2."""
    names = {i: f"class {i}" for i in range(count)}
    save_pipeline(tiny_pipeline(id2label=names), tmp_path)
    for order in (sorted(range(count), key=str), np.random.default_rng(count).permutation(count).tolist()):
        rewrite_index(tmp_path, id2label={str(i): names[i] for i in order})
        assert list(load_pipeline(tmp_path).id2label.items()) == list(names.items())
        assert ModelFacts(tmp_path).class_names == list(names.values())


RESAVED = """
import logging, numpy as np, torch, diffusers
from diffusers import AutoModel, DiffusionPipeline
warnings = []
handler = logging.Handler()
handler.emit = lambda record: warnings.append(record.getMessage())
diffusers.utils.logging.add_handler(handler)

def images_of(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    return pipeline(["class 10", 2], num_inference_steps=3, generator=generators, output_type="np").images

names = {i: f"class {i}" for i in range(12)}
pipeline = DiffusionPipeline.from_pretrained("model", trust_remote_code=True)
pipeline.save_pretrained("again")
again = DiffusionPipeline.from_pretrained("again", trust_remote_code=True)
again.save_pretrained("again")  # into the folder that it came from
third = DiffusionPipeline.from_pretrained("again", trust_remote_code=True)
assert not warnings, warnings
copies = [type(third)(**third.components), type(third)(**third.components, **third.parameters)]
copies += [type(third).from_pipe(third), type(third).from_pretrained("again", trust_remote_code=True)]
for each in (pipeline, again, third, *copies):
    assert list(each.id2label.items()) == list(names.items())
    np.testing.assert_array_equal(images_of(each), images_of(again))
np.save("images.npy", images_of(third))

where = {"subfolder": "classifier", "trust_remote_code": True}
classifier = AutoModel.from_pretrained("reader", **where)
classifier.save_pretrained("reader again/classifier")
again = AutoModel.from_pretrained("reader again", **where)
x = torch.randn(2, 1, 8, 8)
torch.testing.assert_close(again(x, 5), classifier(x, 5), rtol=0, atol=0)
assert list(again.id2label.items()) == list(names.items())
"""


def test_what_others_load_they_can_save_and_load_again(tmp_path):
    """Without this project, with the names of the classes and without a warning; and the project reads it too."""
    names = {i: f"class {i}" for i in range(12)}
    save_pipeline(tiny_pipeline(id2label=names), tmp_path / "model")
    save_classifier(tiny_classifier(num_classes=12, id2label=names), NOISE, tmp_path / "reader")
    run_without_project(RESAVED, tmp_path)
    pipeline = load_pipeline(tmp_path / "again")
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    images = pipeline(["class 10", 2], num_inference_steps=3, generator=generators, output_type="np").images
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), images)


def test_the_projects_own_class_saves_the_same(folder, tmp_path):
    pipeline = load_pipeline(folder)
    pipeline.save_pretrained(tmp_path / "again")
    contents = [
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (folder, tmp_path / "again")
    ]
    assert contents[0].keys() == contents[1].keys()
    assert contents[0]["model_index.json"] == contents[1]["model_index.json"]
    again = ClassConditionalPipeline.from_pretrained(tmp_path / "again", trust_remote_code=True)
    np.testing.assert_array_equal(images_of(again), images_of(pipeline))
    assert ClassConditionalPipeline(**pipeline.components).id2label == NAMES


def test_saved_files(folder):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *("model_index.json", "pipeline_class_conditional.py", "scheduler/scheduler_config.json"),
        *("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    }
    assert weights_file(folder).is_file()


@pytest.mark.parametrize("rights, expected", [(0o755, 0o644), (0o750, 0o640), (0o700, 0o600)])
def test_who_may_read_the_folder_may_read_the_weights(rights, expected, folder, tmp_path):
    """safetensors lets the owner alone read them."""
    umask = os.umask(0o777 - rights)
    try:
        export_model(folder, tmp_path / "again", ["fp16"])
    finally:
        os.umask(umask)
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert len(found) == 6 and set(found.values()) == {expected}, found


def test_saving_leaves_the_pipeline_usable_and_saves_again(tmp_path):
    pipeline = tiny_pipeline()
    before = images_of(pipeline)
    for name in ("one", "two"):
        save_pipeline(pipeline, tmp_path / name)
    np.testing.assert_array_equal(images_of(pipeline), before)
    save_pipeline(load_pipeline(tmp_path / "one"), tmp_path / "three")
    indices = [json.loads((tmp_path / name / "model_index.json").read_text()) for name in ("one", "two", "three")]
    for index in indices:
        index.pop("_name_or_path", None)
    assert indices[0] == indices[1] == indices[2]


def test_an_unconditional_folder_samples_without_labels(tmp_path):
    save_pipeline(DDPMPipeline(tiny_unet(None), CosineScheduler().to_stock()), tmp_path)
    pipeline = load_pipeline(tmp_path)
    assert isinstance(pipeline, ClassConditionalPipeline) and pipeline.id2label == {}
    assert pipeline(batch_size=3, num_inference_steps=2, output_type="pt").images.shape == (3, 1, 8, 8)


def test_dtype(folder):
    assert load_pipeline(folder, dtype=torch.bfloat16).unet.dtype == torch.bfloat16
    assert load_pipeline(folder).unet.dtype == torch.float32


def test_loading_executes_nothing(folder, tmp_path):
    expected = images_of(load_pipeline(folder))
    marker = tmp_path / "executed"
    bomb = f"open({str(marker)!r}, 'w').close()\nraise SystemExit(9)\n"
    for name in ("pipeline_class_conditional.py", "unet/unet_2d.py", "scheduler/scheduling_ddpm.py"):
        (folder / name).write_text(bomb)
    np.testing.assert_array_equal(images_of(load_pipeline(folder)), expected)
    assert not marker.exists()


def test_pickled_weights_are_not_read(folder):
    state = UNet2DModel.from_pretrained(folder / "unet").state_dict()
    weights_file(folder).unlink()
    torch.save(state, folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="damaged or incomplete"):
        load_pipeline(folder)


def test_an_index_of_weights_is_not_followed(folder, tmp_path):
    """It could name pickles, or files outside the folder."""
    state = UNet2DModel.from_pretrained(folder / "unet").state_dict()
    torch.save(state, tmp_path / "outside.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, "../../outside.bin")}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="splits the weights into several files"):
        load_pipeline(folder)
    weights_file(folder).unlink()
    with pytest.raises(UserError, match="diffusion_pytorch_model.safetensors is missing"):
        load_pipeline(folder)


def test_exporting_takes_no_code_along(folder, tmp_path):
    """What is written is ours, whatever the folder's own source files, index and record say."""
    expected = images_of(load_pipeline(folder))
    for name in ("pipeline_class_conditional.py", "unet/unet_2d.py", "setup.py"):
        (folder / name).write_text("raise SystemExit(9)")
    rewrite_index(
        folder, _class_name=["pipeline_class_conditional", "ClassConditionalPipeline"], evil=["os", "system"]
    )
    export_model(folder, tmp_path / "out", variants=["fp16", "bf16"])
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert files == {
        *("model_index.json", "pipeline_class_conditional.py", "scheduler/scheduler_config.json", "unet/config.json"),
        *("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"),
        "unet/diffusion_pytorch_model.bf16.safetensors",
    }
    assert "SystemExit" not in (tmp_path / "out/pipeline_class_conditional.py").read_text()
    assert not {"evil", "_name_or_path"} & json.loads((tmp_path / "out/model_index.json").read_text()).keys()
    np.testing.assert_array_equal(images_of(load_pipeline(tmp_path / "out")), expected)
    whole = load_file(weights_file(folder))
    for variant, dtype in VARIANTS.items():
        half = load_file(tmp_path / f"out/unet/diffusion_pytorch_model.{variant}.safetensors")
        torch.testing.assert_close(half, {name: t.to(dtype) for name, t in whole.items()}, rtol=0, atol=0)


def test_an_unconditional_model_is_exported_as_a_stock_pipeline(tmp_path):
    """Which needs no code; its record goes along."""
    save_pipeline(DDPMPipeline(tiny_unet(None), CosineScheduler().to_stock()), tmp_path / "run")
    record = {"kind": "unconditional", "step": 1, "images_seen": 4}
    sections = {"data": {"path": "cats", "split": "train"}, "scheduler": {"name": "cosine"}}
    sections["train"] = {"batch_size": 4}
    write_record(tmp_path / "run", {**record, "config": sections})
    export_model(tmp_path / "run", tmp_path / "out")
    assert json.loads((tmp_path / "out/model_index.json").read_text())["_class_name"] == "DDPMPipeline"
    assert not list((tmp_path / "out").rglob("*.py"))
    assert read_record(tmp_path / "out") == {**record, "config": sections}


def test_variants_are_what_diffusers_calls_them(folder, tmp_path):
    """from_pretrained(variant="fp16") gives half precision and "bf16" bfloat16, rounded once from float32."""
    export_model(folder, tmp_path / "out", variants=["fp16", "bf16"])
    whole = UNet2DModel.from_pretrained(folder / "unet").conv_in.weight
    for variant, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        unet = UNet2DModel.from_pretrained(tmp_path / "out/unet", variant=variant, torch_dtype=dtype)
        written = load_file(tmp_path / f"out/unet/diffusion_pytorch_model.{variant}.safetensors")
        assert written["conv_in.weight"].dtype == dtype
        assert torch.equal(unet.conv_in.weight, whole.to(dtype))


@pytest.mark.parametrize("text", ["", "[1]", '{"step": "x"}', '{"kind": "conditional", "step": 1, "config": {}}'])
def test_a_damaged_record_is_one_sentence(text, folder, tmp_path):
    (folder / "run.json").write_text(text)
    with pytest.raises(UserError, match="run.json (is damaged|must contain an object)"):
        export_model(folder, tmp_path / "out")


def rewrite_index(folder, **changes):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **changes}))


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


DAMAGES = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "has no model_index.json"),
    "empty index": (lambda f: truncate(f / "model_index.json", 0), "model_index.json is damaged"),
    "index is a list": (lambda f: (f / "model_index.json").write_text("[1]"), "must contain an object, not list"),
    "other pipeline": (lambda f: rewrite_index(f, _class_name="StableDiffusionPipeline"), "StableDiffusionPipeline"),
    "other UNet": (lambda f: rewrite_index(f, unet=["diffusers", "UNet2DConditionModel"]), "UNet2DConditionModel"),
    "foreign UNet": (lambda f: rewrite_index(f, unet=["evil", "UNet2DModel"]), "this project loads"),
    "foreign scheduler": (lambda f: rewrite_index(f, scheduler=["os", "system"]), "this project loads"),
    "no scheduler": (lambda f: rewrite_index(f, scheduler=["diffusers", "UNet2DModel"]), "this project loads"),
    "null scheduler": (lambda f: rewrite_index(f, scheduler=[None, None]), "this project loads"),
    "wrong names": (lambda f: rewrite_index(f, id2label={"0": "ant"}), "give every class one name"),
    "names by letters": (lambda f: rewrite_index(f, id2label={"a": "ant"}), "damaged or incomplete"),
    "missing weights": (lambda f: weights_file(f).unlink(), "damaged or incomplete"),
    "missing unet": (lambda f: shutil.rmtree(f / "unet"), "damaged or incomplete"),
    "missing scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "damaged or incomplete"),
    "truncated weights": (lambda f: truncate(weights_file(f), 5000), "damaged or incomplete"),
    "empty weights": (lambda f: truncate(weights_file(f), 0), "damaged or incomplete"),
    "truncated config": (lambda f: truncate(f / "unet/config.json", 40), "unet/config.json is damaged"),
    "binary index": (lambda f: (f / "model_index.json").write_bytes(b"\xff\xfe\x00"), "model_index.json is damaged"),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_folders(damage, sentence, folder):
    damage(folder)
    with pytest.raises(UserError, match=sentence) as error:
        load_pipeline(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_scheduler_of_another_library_is_not_taken_for_one_of_diffusers(folder):
    rewrite_index(folder, scheduler=["evil", "DDPMScheduler"])
    with pytest.raises(UserError, match="names a ClassConditionalPipeline of UNet2DModel and DDPMScheduler; this"):
        load_pipeline(folder)


def test_weights_of_another_architecture(folder):
    """A config of more channels than the weights have."""
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "block_out_channels": [8, 32]}))
    with pytest.raises(UserError, match="damaged or incomplete"):
        load_pipeline(folder)


def test_weights_that_lack_a_tensor(folder):
    """Diffusers alone would fill the gap with random numbers and a warning."""
    tensors = load_file(weights_file(folder))
    tensors.pop("conv_out.weight")
    save_file(tensors, weights_file(folder), metadata={"format": "pt"})
    with pytest.raises(UserError, match="damaged or incomplete"):
        load_pipeline(folder)


def test_weights_with_a_tensor_too_many(folder):
    """Those of a deeper UNet, whose configuration was replaced: diffusers alone would leave the rest out."""
    tensors = load_file(weights_file(folder))
    tensors["down_blocks.0.resnets.1.conv1.weight"] = tensors["down_blocks.0.resnets.0.conv1.weight"].clone()
    save_file(tensors, weights_file(folder), metadata={"format": "pt"})
    with pytest.raises(UserError, match="damaged or incomplete"):
        load_pipeline(folder)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "a/b/c"])
def test_no_such_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{name} is not a folder: name the folder of a model"):
        find_model(name)


def test_a_shipped_model_has_a_bare_name_that_a_folder_takes_precedence_over(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "TOP", tmp_path / "package")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shipped = tmp_path / "package/models/vans"
    shutil.copytree(folder, shipped)
    assert layout.shipped_models() == ["vans"] and find_model("vans") == shipped
    assert layout.shipped_model("../vans") is None and layout.shipped_model("cars") is None
    Path("vans").mkdir()
    assert find_model("vans") == Path("vans")


def test_a_folder_is_taken_as_it_is(folder):
    assert find_model(str(folder)) == folder


@pytest.mark.parametrize("name", ["cardiff/no-such-model", "bad name!"])
def test_an_unreadable_repository_is_one_sentence(name):
    """Offline, as all tests are."""
    with pytest.raises(UserError, match="is neither a folder nor a Hub repository that can be read"):
        find_model(name)


def test_a_bare_name_that_is_unknown_is_told_those_that_are_known():
    with pytest.raises(UserError, match=r"^cars_23 is neither .*\. The models that ship are cars_32, cars_32_cl"):
        find_model("cars_23")
    with pytest.raises(UserError, match=r"^(?!.*The models that ship).*$"):
        find_model("nobody/cars_32")


def test_the_hub_is_asked_for_configurations_and_weights_alone(monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **kwargs: asked.append(kwargs) or "here")
    assert find_model("user/model").name == "here"
    names = asked[0]["allow_patterns"]
    assert {"unet/config.json", "unet/diffusion_pytorch_model.safetensors", "classifier/config.json"} <= set(names)
    # Not a pattern among them: "unet/*.json" would match unet/../../somewhere.json.
    assert all(name.endswith((".json", ".safetensors")) and "*" not in name for name in names)


# Classifiers

NOISE = CosineScheduler().to_stock()


def logits_of(classifier):
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return classifier(x.to(classifier.dtype), torch.tensor([0, 400, 900, 999])).detach()


@pytest.fixture
def classifier_folder(tmp_path):
    save_classifier(tiny_classifier(), NOISE, tmp_path / "classifier_run")
    return tmp_path / "classifier_run"


def test_save_load_same_logits(classifier_folder):
    files = {p.relative_to(classifier_folder).as_posix() for p in classifier_folder.rglob("*") if p.is_file()}
    assert files == {
        *("classifier/noisy_classifier.py", "scheduler/scheduler_config.json"),
        *("classifier/config.json", "classifier/diffusion_pytorch_model.safetensors"),
    }
    classifier, scheduler = load_classifier(classifier_folder)
    assert isinstance(classifier, NoisyClassifier) and classifier.id2label == NAMES and not classifier.training
    assert type(scheduler).__name__ == "DDPMScheduler"
    torch.testing.assert_close(scheduler.alphas_cumprod, NOISE.alphas_cumprod, rtol=0, atol=0)
    torch.testing.assert_close(logits_of(classifier), logits_of(tiny_classifier()), rtol=0, atol=0)
    half, _ = load_classifier(classifier_folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and logits_of(half).isfinite().all()


def test_a_classifier_says_which_file_it_needs(classifier_folder):
    """So that AutoModel finds it where this project is not installed; nothing says where it was once loaded from."""
    config = json.loads((classifier_folder / "classifier/config.json").read_text())
    assert config["auto_map"] == {"AutoModel": "noisy_classifier.NoisyClassifier"} and "_name_or_path" not in config
    assert "_name_or_path" not in json.loads((classifier_folder / "scheduler/scheduler_config.json").read_text())


def test_a_revision_is_asked_for(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(hub, "download", lambda *arguments: asked.append(arguments) or tmp_path)
    assert find_model("user/cats", "v2") == find_model("user/cats") == tmp_path
    assert asked == [("user/cats", hub.MODEL_FILES, "v2"), ("user/cats", hub.MODEL_FILES, None)]


def test_loading_a_classifier_executes_nothing(classifier_folder, tmp_path):
    marker = tmp_path / "executed"
    for name in ("noisy_classifier.py", "classifier/noisy_classifier.py", "scheduler/scheduling_ddpm.py"):
        (classifier_folder / name).write_text(f"open({str(marker)!r}, 'w').close()\nraise SystemExit(9)\n")
    state = tiny_classifier().state_dict()
    torch.save(state, classifier_folder / "classifier/diffusion_pytorch_model.bin")
    load_classifier(classifier_folder)
    assert not marker.exists()
    (classifier_folder / "classifier/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="damaged or incomplete"):
        load_classifier(classifier_folder)


def rewrite_tensors(folder, change):
    file = folder / "classifier/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def rewrite_config(folder, **changes):
    file = folder / "classifier/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


CLASSIFIER_DAMAGES = {
    "nothing there": (shutil.rmtree, "has no classifier/config.json: name the output folder of train_classifier.py"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "damaged or incomplete"),
    "truncated config": (lambda f: truncate(f / "classifier/config.json", 40), "config.json is damaged"),
    "config is a list": (
        lambda f: (f / "classifier/config.json").write_text("[1]"),
        "must contain an object, not list",
    ),
    "other class": (lambda f: rewrite_config(f, _class_name="UNet2DModel"), "describes a UNet2DModel, not a Noisy"),
    "other noise": (lambda f: rewrite_config(f, alphas_cumprod=[0.5] * 1000), "have different noise levels"),
    "other channels": (lambda f: rewrite_config(f, block_out_channels=[8, 32]), "damaged or incomplete"),
    "truncated weights": (
        lambda f: truncate(f / "classifier/diffusion_pytorch_model.safetensors", 5000),
        "damaged or incomplete",
    ),
    "missing key": (lambda f: rewrite_tensors(f, lambda t: t.pop("head.bias")), "missing keys: .'head.bias'"),
    "unexpected key": (
        lambda f: rewrite_tensors(f, lambda t: t.update(extra=torch.ones(1))),
        "unexpected keys: .'extra'",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), CLASSIFIER_DAMAGES.values(), ids=CLASSIFIER_DAMAGES)
def test_damaged_classifiers(damage, sentence, classifier_folder):
    damage(classifier_folder)
    with pytest.raises(UserError, match=sentence) as error:
        load_classifier(classifier_folder)
    assert str(classifier_folder) in str(error.value) and "\n" not in str(error.value)


def test_models_of_the_other_kind_are_named(folder, classifier_folder):
    with pytest.raises(UserError, match="is a diffusion model, not a classifier"):
        load_classifier(folder)
    with pytest.raises(UserError, match="is a classifier, not a diffusion model"):
        load_pipeline(classifier_folder)
