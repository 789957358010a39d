"""Models to start from: every layout that is read, the noise levels that are taken over, and what is refused."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import save_file

from cardiff.config.schedule import make_schedule
from cardiff.errors import UserError
from cardiff.hub.read_source import read_source
from cardiff.hub.serialization import save_classifier, save_pipeline
from cardiff.layout import shipped_model
from cardiff.schedulers import CosineScheduler, SigmoidScheduler
from tests.support.tiny_classifier import tiny_classifier
from tests.support.tiny_models import NAMES, tiny_pipeline, tiny_unet

DDPM = {  # the arguments of google/ddpm-cifar10-32 and google/ddpm-celebahq-256 that differ from the defaults
    "act_fn": "silu",
    "attention_head_dim": None,
    "center_input_sample": False,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 4,
}
CIFAR10 = {
    **DDPM,
    "sample_size": 32,
    "block_out_channels": (8, 16, 16, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
CELEBAHQ = {
    **DDPM,
    "sample_size": 64,
    "block_out_channels": (8, 8, 16, 16, 32, 32),
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
}


def stock(arguments, folder, flat=False, scheduler=None):
    """A folder as diffusers' DDPMPipeline writes it, or with all files side by side as in the two repositories."""
    torch.manual_seed(0)
    pipeline = DDPMPipeline(UNet2DModel(**arguments), scheduler or DDPMScheduler(variance_type="fixed_large"))
    pipeline.save_pretrained(folder)
    # Old files name the arguments that there were at the time.
    named = {"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "in_channels": 3, "out_channels": 3}
    (folder / "unet/config.json").write_text(json.dumps({**named, **arguments}))
    if flat:
        for part in ("unet", "scheduler"):
            for file in (folder / part).iterdir():
                shutil.move(file, folder / file.name)
            (folder / part).rmdir()
    return pipeline


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("arguments", [CIFAR10, CELEBAHQ], ids=["cifar10", "celebahq"])
def test_a_stock_pipeline(arguments, flat, tmp_path):
    stock(arguments, tmp_path / "m", flat)
    source = read_source(str(tmp_path / "m"))
    sections = source.sections()
    assert (source.kind, source.class_names) == ("unconditional", [])
    assert sections["data"] == {"channels": 3, "resolution": arguments["sample_size"]}
    for name, value in arguments.items():
        if name != "sample_size":
            assert sections["unet"][name] == (list(value) if isinstance(value, tuple) else value), name
    assert sections["unet"]["add_attention"] is True and sections["unet"]["resnet_time_scale_shift"] == "default"
    expected = {"name": "linear", "prediction_type": "epsilon", "num_train_timesteps": 1000}
    expected |= {"variance_type": "fixed_large", "clip_sample": True, "beta_start": 1e-4, "beta_end": 0.02}
    assert sections["scheduler"] == expected


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", num_train_timesteps=500),
        DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.001, beta_end=0.03, clip_sample=False),
        DDIMScheduler(beta_schedule="scaled_linear", prediction_type="sample"),
        DDPMScheduler(trained_betas=[0.1, 0.2, 0.5], num_train_timesteps=3, variance_type="fixed_small_log"),
        SigmoidScheduler().to_stock(),
    ],
    ids=lambda scheduler: f"{type(scheduler).__name__}-{scheduler.config.beta_schedule}",
)
def test_other_noise_levels_are_a_table_to_the_bit(scheduler, tmp_path):
    stock(CIFAR10, tmp_path, scheduler=scheduler)
    section = read_source(str(tmp_path)).scheduler
    assert section["name"] == "table" and section["prediction_type"] == scheduler.config.prediction_type
    assert section["clip_sample"] is bool(scheduler.config.clip_sample)
    made = make_schedule(section).to_stock()
    assert torch.equal(made.betas, scheduler.betas) and torch.equal(made.alphas_cumprod, scheduler.alphas_cumprod)


def test_a_last_step_of_pure_noise(tmp_path):
    """diffusers rescales again, in float32, whenever it loads such a schedule: equal but for that rounding."""
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    stock(CIFAR10, tmp_path, scheduler=scheduler)
    section = read_source(str(tmp_path)).scheduler
    made = make_schedule(section).to_stock().alphas_cumprod.double()
    assert section["rescale_betas_zero_snr"] is True and made[-1] == 0
    difference = torch.logit(made[:-1]) - torch.logit(scheduler.alphas_cumprod.double()[:-1])
    assert difference.abs().max() < 0.005


def test_of_a_run_the_schedule_keeps_its_name():
    source = read_source("cars_32")
    assert source.scheduler["name"] == "sigmoid" and "alphas_cumprod" not in source.scheduler
    assert (source.kind, len(source.class_names), source.class_names[1]) == ("conditional", 10, "beetle")
    assert source.sections()["data"] == {"channels": 3, "resolution": 32}
    assert source.base["name"] == "cars_32" and source.base["revision"] is None


def test_a_record_names_no_code(tmp_path, monkeypatch):
    """Whoever wrote it: a function of a file would be run to compare its levels."""
    stock(CIFAR10, tmp_path, scheduler=SigmoidScheduler().to_stock())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('ran', 'w')\ndef function(t): return 1 - 0.999 * t\n")
    record = json.loads((shipped_model("cars_32") / "run.json").read_text())
    record["config"]["scheduler"] = {"name": "evil.py:function"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert read_source(str(tmp_path)).scheduler["name"] == "table"
    assert not (tmp_path / "ran").exists()


def test_the_names_of_classes_are_in_the_order_of_their_rows(tmp_path):
    """In a file, "10" comes before "2"."""
    save_pipeline(tiny_pipeline(id2label={i: f"car {i}" for i in range(12)}), tmp_path)
    assert read_source(str(tmp_path)).class_names == [f"car {i}" for i in range(12)]
    index = json.loads((tmp_path / "model_index.json").read_text())
    del index["id2label"]["3"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="id2label has 11 classes, so that the network must have 12 class embeddings"):
        read_source(str(tmp_path))


def test_a_bare_network(tmp_path):
    tiny_unet(None).save_pretrained(tmp_path)
    source = read_source(str(tmp_path))
    assert source.scheduler is None and "scheduler" not in source.sections()
    assert source.sections()["data"] == {"channels": 1, "resolution": 8}


def test_a_snapshot_names_its_revision_and_licence(tmp_path):
    folder = tmp_path / "snapshots" / "0123abc"
    stock(CIFAR10, folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- x\n---\n# A model\n---\n")
    assert {k: v for k, v in read_source(str(folder)).base.items() if k != "weights_sha256"} == {
        **{"name": "0123abc", "revision": "0123abc", "license": "apache-2.0"}
    }
    for other in ("", "no metadata", "---\n[\n---\n", "---\n- a\n---\n", "---\nlicense: [mit]\n---\n"):
        (folder / "README.md").write_text(other)
        assert read_source(str(folder)).base["license"] is None


def test_a_repository_of_the_hub(hub, tmp_path):
    """Nothing but JSON and safetensors is fetched, and the commit is the revision."""
    pipeline = stock(CIFAR10, tmp_path / "m", flat=True)
    files = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    evil = {"diffusion_pytorch_model.bin": b"pickle", "pipeline.py": b"raise SystemExit", "unet/evil.py": b""}
    hub.add("google/ddpm", {**files, **evil, "README.md": b"---\nlicense: apache-2.0\n---\n"})
    source = read_source("google/ddpm")
    commit = source.weights.parent.name
    assert source.base["name"] == "google/ddpm" and source.base["license"] == "apache-2.0"
    assert source.base["revision"] == commit == hub.repositories["google/ddpm"].find("main").oid
    assert {path.name for path in source.weights.parent.rglob("*")} == {*files, "README.md"}
    expected = pipeline.unet.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in source.tensors().items())
    with pytest.raises(UserError, match="^--init_from google/ddpm|google/ddpm is neither a folder nor a Hub"):
        read_source("google/ddpm", "no-such-branch")


@pytest.fixture
def folder(tmp_path):
    """A good source, to be spoilt."""
    stock({**CIFAR10, "norm_num_groups": 8}, tmp_path / "good")
    return tmp_path / "good"


def configured(**changes):
    def spoil(folder):
        file = folder / "unet/config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return spoil


def scheduled(**changes):
    def spoil(folder):
        file = folder / "scheduler/scheduler_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return spoil


def pickled(folder):
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def only(name):
    def spoil(folder):
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / name).write_bytes(b"")

    return spoil


def text_to_image(folder):
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def split(folder):
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text("{}")


def damaged_index(folder):
    (folder / "model_index.json").write_text('{"unet": 3}')


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (configured(_class_name="UNet2DConditionModel"), "describes a UNet2DConditionModel, but only a UNet2DModel"),
        (text_to_image, "its network is a UNet2DConditionModel, but only a UNet2DModel"),
        (configured(out_channels=6), "has 3 channels in and 6 out, so it predicts variances"),
        (configured(in_channels=4, out_channels=4), "has 4 channels, as those that work on codes of an autoencoder"),
        (configured(down_block_types=["SkipDownBlock2D"] * 4), "down_block_types has SkipDownBlock2D, but must be of"),
        (configured(time_embedding_type="fourier"), "is fourier, whose network divides by the noise level"),
        (configured(class_embed_type="timestep"), "class_embed_type is timestep, but only a table"),
        (configured(num_class_embeds=10), "has 10 class embeddings, but nothing says of which classes"),
        (configured(sample_size=[32, 64]), "its images are 32×64, but must be square"),
        (configured(norm_num_groups="many"), "norm_num_groups is \"many\", but must be int"),
        (scheduled(variance_type="learned_range"), "its variances are learned"),
        (scheduled(_class_name="KarrasVeScheduler2"), "its scheduler is a KarrasVeScheduler2, which diffusers lacks"),
        (scheduled(trained_betas=[0.1, 2.0], num_train_timesteps=2), "beta 1 is 2, but must lie between 0 and 1"),
        (pickled, "has no diffusion_pytorch_model.safetensors: only safetensors are read"),
        (split, "index.json splits the weights into several files"),
        (damaged_index, "is damaged or incomplete"),
        (only("pytorch_lora_weights.safetensors"), "holds a LoRA, which changes another network"),
        (only("adapter_config.json"), "holds a LoRA, which changes another network"),
        (only("model.ckpt"), "holds model.ckpt, which may be a pickle"),
        (only("notes.txt"), "has no unet/config.json and no config.json"),
    ],
)  # fmt: skip
def test_other_sources_are_one_sentence(spoil, sentence, folder):
    spoil(folder)
    with pytest.raises(UserError) as refused:
        read_source(str(folder))
    text = str(refused.value)
    assert sentence in text and text.startswith(f"--init_from {folder}") and "\n" not in text
    assert text.endswith((".", "…", ")"))


def test_a_file_and_an_unknown_name(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="model.safetensors is a file, but must be the folder of a model"):
        read_source(str(tmp_path / "model.safetensors"))
    with pytest.raises(UserError, match="cars_23 is neither a folder nor a Hub repository.*cars_32"):
        read_source("cars_23")


def test_damaged_weights(folder):
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="^--init_from .* diffusion_pytorch_model.safetensors is damaged .*: copy or"):
        read_source(str(folder)).tensors()


def test_a_flipped_bit_of_ours_is_found_by_its_checksum(tmp_path):
    from cardiff.integrity import write_checksums

    save_pipeline(tiny_pipeline(id2label=NAMES), tmp_path)
    write_checksums(tmp_path, leave_out=[])
    (tmp_path / "unet/config.json").write_text((tmp_path / "unet/config.json").read_text() + " ")
    with pytest.raises(UserError, match="^--init_from .* is damaged"):
        read_source(str(tmp_path))


def test_a_classifier(tmp_path):
    save_classifier(tiny_classifier(), CosineScheduler().to_stock(), tmp_path)
    source = read_source(str(tmp_path))
    assert source.kind == "classifier" and source.class_names == list(NAMES.values())
    assert source.sections()["classifier"]["block_out_channels"] == [8, 16]
    (tmp_path / "classifier/config.json").write_text('{"_class_name": "ResNet"}')
    with pytest.raises(UserError, match="its classifier is not a NoisyClassifier"):
        read_source(str(tmp_path))
