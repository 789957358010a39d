"""Shipped configurations build, mistakes are named in one sentence, and what is written down reads back the same."""

import inspect
import json
from dataclasses import fields

import pytest
import torch
import yaml
from diffusers import UNet2DModel

from cardiff.config.network import ClassifierConfig, UNetConfig
from cardiff.config.run import SECTIONS, parse_run
from cardiff.config.schedule import make_schedule
from cardiff.config.sections import ClassifierTrainConfig, ConditionalTrainConfig, DataConfig, DiffusionTrainConfig
from cardiff.diffusion.networks import build_classifier, build_unet, null_class
from cardiff.schedulers import SCHEDULES
from tests.support.parsing import CONFIGS, DIGITS, parse


def kind_of(path) -> str:
    return yaml.safe_load(path.read_text())["kind"]


@pytest.fixture
def refused(capsys):
    """Parse what must be refused: exit status 2 and one sentence, which is returned."""

    def run(*argv, kind="conditional"):
        with pytest.raises(SystemExit) as stop:
            parse(*argv, kind=kind)
        captured = capsys.readouterr()
        assert stop.value.code == 2 and captured.out == ""
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
        return captured.err.strip().removeprefix("error: ")

    return run


# Shipped configurations


def test_there_are_configurations_of_every_kind():
    assert {kind_of(path) for path in CONFIGS} == SECTIONS.keys()


def test_a_classifier_has_the_data_and_the_schedule_of_its_diffusion_model():
    for path in CONFIGS:
        if path.stem.endswith("_classifier"):  # a judge guides nothing
            twin = path.with_stem(path.stem.replace("_classifier", "_conditional"))
            classifier, model = (yaml.safe_load(p.read_text()) for p in (path, twin))
            assert [classifier[name] for name in ("data", "scheduler")] == [model["data"], model["scheduler"]]


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_shipped_configurations(path, tmp_path):
    """Every key means what it says, the network fits the images, and config.yaml reads back the same."""
    config, written = parse("--config", str(path), kind=kind_of(path)), yaml.safe_load(path.read_text())
    for section, values in config.to_dict().items():
        for key, value in written.get(section, {}).items():
            assert values[key] == value
    schedule = make_schedule(config.scheduler)
    assert len(schedule.alphas_cumprod) == 1000
    with torch.device("meta"):
        images = torch.empty(2, config.data.channels, config.data.resolution, config.data.resolution)
        if config.kind == "classifier":
            logits = build_classifier(config, schedule, list("abc"))(images, torch.zeros(2))
            assert logits.shape == (2, 3)
        else:
            unet = build_unet(config, 10 if config.labelled else None)
            labels = torch.zeros(2, dtype=torch.long) if config.labelled else None
            assert unet(images, torch.zeros(2), labels).sample.shape == images.shape
            assert null_class(unet) == (10 if config.labelled else None)

    assert list(config.to_dict()) == ["data", config.network_name, "scheduler", "train"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    assert parse("--config", str(tmp_path / "config.yaml"), kind=config.kind) == config
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()  # as state.json keeps it


def test_unet_fields_are_unet_arguments():
    accepted = inspect.signature(UNet2DModel.__init__).parameters
    assert {field.name for field in fields(UNetConfig)} <= accepted.keys()


def test_every_classifier_field_reaches_the_classifier():
    values = {
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "attention_head_dim": 4,
        "dropout": 0.3,
        "norm_num_groups": 4,
        "resnet_time_scale_shift": "scale_shift",
    }
    assert values.keys() == {field.name for field in fields(ClassifierConfig)}
    options = [f"--classifier.{name}={json.dumps(v) if isinstance(v, list) else v}" for name, v in values.items()]
    config = parse(*options, "--data.resolution", "8", "--data.channels", "1", kind="classifier")
    scheduler = make_schedule(config.scheduler).to_stock()
    classifier = build_classifier(config, scheduler, ["ant", "bee"])
    assert {name: classifier.config[name] for name in values} == values
    assert (classifier.config.sample_size, classifier.config.in_channels, classifier.config.num_classes) == (8, 1, 2)
    assert classifier.config.id2label == {"0": "ant", "1": "bee"}
    assert classifier.config.alphas_cumprod == scheduler.alphas_cumprod.tolist()


def test_every_unet_field_reaches_the_unet():
    values = {
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 4,
        "dropout": 0.3,
        "norm_num_groups": 4,
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "add_attention": False,
        "mid_block_type": None,
        "mid_block_scale_factor": 2.0,
        "attn_norm_num_groups": 2,
        "norm_eps": 1e-6,
        "act_fn": "mish",
        "downsample_padding": 0,
        "center_input_sample": True,
        "time_embedding_type": "learned",
        "time_embedding_dim": 24,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "num_train_timesteps": 1000,
    }
    assert values.keys() == {field.name for field in fields(UNetConfig)}
    of_data = {"sample_size", "in_channels", "out_channels", "num_class_embeds"}
    stock = set(inspect.signature(UNet2DModel).parameters) - of_data - {"class_embed_type"}
    assert stock == values.keys()  # all that there is
    options = [f"--unet.{name}={v if isinstance(v, str) else json.dumps(v)}" for name, v in values.items()]
    config = parse(*options, "--data.resolution", "8", "--data.channels", "1")
    unet = build_unet(config, 5)
    assert {name: unet.config[name] for name in values} == values
    assert (unet.config.sample_size, unet.config.in_channels, unet.config.out_channels) == (8, 1, 1)
    assert unet.config.num_class_embeds == 6


# Parsing


def test_defaults_are_the_documented_ones():
    config = parse()
    assert (config.data, config.network, config.train) == (DataConfig(), UNetConfig(), ConditionalTrainConfig())
    assert config.scheduler["name"] == "cosine" and "trained_betas" not in config.scheduler
    assert type(parse(kind="unconditional").train) is DiffusionTrainConfig
    config = parse(kind="classifier")
    assert (config.network, config.train) == (ClassifierConfig(), ClassifierTrainConfig())
    assert (config.train.weight_decay, config.train.validation_fraction) == (0.05, 0.1)


def test_command_line_beats_file():
    config = parse(
        *("--config", str(DIGITS), "--train.batch_size", "256", "--unet.dropout=0.2"),
        *("--scheduler.prediction_type", "epsilon", "--data.data_files", "[a.parquet,b.parquet]"),
    )
    assert (config.train.batch_size, config.network.dropout) == (256, 0.2)
    assert config.scheduler["prediction_type"] == "epsilon"
    assert config.data.data_files == ["a.parquet", "b.parquet"]
    assert config.network.block_out_channels == [32, 64, 64]  # what was not overridden stays


def test_the_place_of_a_file_on_the_command_line_does_not_matter():
    options = ["--scheduler.name", "sigmoid", "--scheduler.tau", "1", "--train.batch_size", "256"]
    config = parse(*options, "--config", str(DIGITS))
    assert config == parse("--config", str(DIGITS), *options)
    assert (config.scheduler["name"], config.scheduler["tau"], config.train.batch_size) == ("sigmoid", 1, 256)


def test_a_whole_number_of_a_file_is_a_float_where_the_option_is_one(tmp_path):
    (tmp_path / "run.yaml").write_text("scheduler: {name: edm, sigma_max: 80}\ntrain: {epochs: 3}\n")
    config = parse("--config", str(tmp_path / "run.yaml"), "--allow_code")
    assert type(config.scheduler["sigma_max"]) is float and type(config.train.epochs) is float


def test_what_a_command_would_run_is_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse("--config", str(DIGITS), "--scheduler.name", "sigmoid", "--print_config")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["scheduler"]["name"] == "sigmoid" and shown["scheduler"]["prediction_type"] == "v_prediction"
    assert shown["train"]["batch_size"] == 64


def test_a_later_file_beats_an_earlier_one(tmp_path):
    (tmp_path / "delta.yaml").write_text("scheduler: {name: sigmoid, tau: 0.7}\ntrain: {batch_size: 8}\n")
    config = parse("--config", str(DIGITS), "--config", str(tmp_path / "delta.yaml"))
    assert config.scheduler["name"] == "sigmoid" and config.scheduler["tau"] == 0.7
    assert config.train.batch_size == 8 and config.train.max_steps == 600


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("linear", "beta_end", 0.03),
        ("cosine", "s", 0.01),
        ("sigmoid", "tau", 0.9),
        ("cosine_log_snr", "shift_clean", -0.5),
        ("knots", "log_snr", [9.0, 0.0, -9.0]),
    ],
)
def test_the_schedule_brings_its_arguments(name, argument, value, refused):
    option = (f"--scheduler.{argument}", str(value))
    config = parse("--scheduler.name", name, *option)
    assert config.scheduler[argument] == value
    schedule = make_schedule(config.scheduler)
    assert type(schedule) is SCHEDULES[name] and schedule.config[argument] == value
    assert parse(f"--scheduler.name={name}", *option) == config
    other = next(other for other in SCHEDULES if argument not in inspect.signature(SCHEDULES[other]).parameters)
    assert f"there is no option 'scheduler.{argument}'" in refused("--scheduler.name", other, *option)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_the_modifiers(name):
    required = {"knots": ["--scheduler.log_snr", "[9, -9]"], "table": ["--scheduler.alphas_cumprod", "[0.9, 0.3]"]}
    options = ["--scheduler.rescale_betas_zero_snr", "true", "--scheduler.input_scale", "0.5"]
    options += ["--scheduler.prediction_type", "v_prediction", *required.get(name, [])]
    options += ["--scheduler.num_train_timesteps", "2", "--train.sample_steps", "2"] if name == "table" else []
    schedule = make_schedule(parse("--scheduler.name", name, *options).scheduler)
    assert schedule.alphas_cumprod[-1] == 0 and schedule.config.input_scale == 0.5


# Which script a file is for


def test_the_configuration_of_another_kind_names_its_script(refused, tmp_path):
    """Shipped, of a run's output folder, and without a word of its kind but with an option that only others have."""
    older = {
        "classifier": "classifier: {dropout: 0.1}",
        "conditional": "train: {label_dropout: 0.1}",
        "unconditional": None,  # all its options are also those of a conditional run
    }
    for kind in SECTIONS:
        shipped = str(DIGITS.with_stem(f"digits_16_{kind}"))
        written = tmp_path / f"{kind}.yaml"
        written.write_text(yaml.safe_dump({"kind": kind, **parse("--config", shipped, kind=kind).to_dict()}))
        (tmp_path / f"older_{kind}.yaml").write_text(older[kind] or "train: {epochs: 3}")
        for file in (shipped, written, tmp_path / f"older_{kind}.yaml"):
            assert parse("--config", str(file), kind=kind).kind == kind
            for other in SECTIONS.keys() - {kind}:
                if older[kind] or "older" not in str(file):
                    sentence = f"{file} is a configuration for train_{kind}.py, not for train_{other}.py"
                    assert sentence in refused("--config", str(file), kind=other)
    (tmp_path / "grids.yaml").write_text("train: {sample_every: 3}")
    sentence = "grids.yaml is a configuration for train_unconditional.py or train_conditional.py, not for train_cl"
    assert sentence in refused(f"--config={tmp_path / 'grids.yaml'}", kind="classifier")
    for wrong in ("autoregressive", "[conditional]"):
        (tmp_path / "wrong.yaml").write_text(f"kind: {wrong}")
        assert "kind" in refused("--config", str(tmp_path / "wrong.yaml"))


def test_lists_of_a_file(tmp_path):
    """What a user gives instead of a formula: knots or the whole table."""
    (tmp_path / "knots.yaml").write_text("scheduler: {name: knots, log_snr: [9, 1, -9], times: [0, 0.4, 1]}")
    schedule = make_schedule(parse("--config", str(tmp_path / "knots.yaml")).scheduler)
    signal = schedule.alphas_cumprod[[399, 999]].double()
    torch.testing.assert_close(torch.logit(signal), torch.tensor([1.0, -9.0], dtype=torch.float64), rtol=0, atol=1e-3)
    table = "scheduler: {name: table, num_train_timesteps: 3, alphas_cumprod: [0.9, 0.5, 0.1]}"
    (tmp_path / "table.yaml").write_text(table)
    schedule = make_schedule(parse("--config", str(tmp_path / "table.yaml"), "--train.sample_steps", "3").scheduler)
    torch.testing.assert_close(schedule.alphas_cumprod, torch.tensor([0.9, 0.5, 0.1]))


def test_a_function_of_the_users(tmp_path, capsys, refused):
    """Its parameters are options, from a file or the command line, with their help; the written configuration reads
    back.
    """
    path = tmp_path / "mine.py"
    path.write_text(
        'def power(t, exponent=2.0):\n    """A power.\n\n    Args:\n        exponent: The power itself.\n    """\n'
        "    return 0.999 * (1 - 0.99 * t) ** exponent\n\n\ndef rising(t):\n    return t / 2\n"
    )
    name = f"{path}:power"
    (tmp_path / "run.yaml").write_text(f"scheduler: {{name: '{name}', exponent: 3}}")
    config = parse("--config", str(tmp_path / "run.yaml"), "--allow_code")
    assert config.scheduler["name"] == name and config.scheduler["exponent"] == 3.0
    assert make_schedule(config.scheduler).alphas_cumprod[0].item() == pytest.approx(0.999 * 0.99901**3, rel=1e-6)
    assert parse("--scheduler.name", name, "--scheduler.exponent", "3") == config
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    assert parse("--config", str(tmp_path / "config.yaml"), "--allow_code") == config
    with pytest.raises(SystemExit, match="0"):
        parse("--scheduler.name", name, "--help")
    assert "--scheduler.exponent EXPONENT The power itself." in " ".join(capsys.readouterr().out.split())
    assert "did you mean 'scheduler.exponent'?" in refused("--scheduler.name", name, "--scheduler.exponnet", "3")
    assert "scheduler.exponent is 'x', but must be float." in refused(
        "--scheduler.name", name, "--scheduler.exponent=x"
    )
    assert "rising: alphas_cumprod must fall strictly" in refused("--scheduler.name", f"{path}:rising")
    assert "has no function 'absent'" in refused("--scheduler.name", f"{path}:absent")


def test_the_schedule_of_the_command_line_beats_the_file():
    """The digits' file names cosine and a prediction type, which stays."""
    config = parse("--config", str(DIGITS), "--scheduler.name", "sigmoid", "--scheduler.tau", "1")
    assert config.scheduler["name"] == "sigmoid" and config.scheduler["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--train.batch_sise", "3"], "there is no option 'train.batch_sise'; did you mean 'train.batch_size'?"),
        (["--unet.dropuot", "0"], "there is no option 'unet.dropuot'; did you mean 'unet.dropout'?"),
        (["--scheduler.tua", "1", "--scheduler.name", "sigmoid"], "did you mean 'scheduler.tau'?"),
        (["--batch_size", "3"], "there is no option 'batch_size'; did you mean 'train.batch_size'?"),
        (["--which_of_the_kind", "x"], "there is no option 'which_of_the_kind'; did you mean 'kind'?"),
        (["--data.split", "-x"], "data.split needs a value; give one that begins with a dash after an equals sign"),
        (["--scheduler.trained_betas", "[0.1]"], "there is no option 'scheduler.trained_betas'"),
        (["--train.batch_size", "many"], "train.batch_size is 'many', but must be int."),
        (["--train.max_steps", "1.5"], "train.max_steps is '1.5', but must be int or null."),
        (["--data.channels", "2"], "data.channels is '2', but must be one of 1, 3."),
        (["--scheduler.name", "cosin"], "scheduler.name: There is no schedule 'cosin'; did you mean 'cosine'?"),
        (["--scheduler.name", "/nowhere.py:f"], "There is no file /nowhere.py to take the function f from."),
        (["--scheduler.name", "knots"], "the following arguments are required: scheduler.log_snr"),
        (
            ["--scheduler.name", "table", "--scheduler.alphas_cumprod", "[0.5]"],
            "num_train_timesteps is 1000: give one",
        ),
        (["--scheduler.rescale_betas_zero_snr", "true"], "choose v_prediction or sample."),
        (["--scheduler.input_scale", ".nan"], "CosineScheduler: input_scale=nan must be finite."),
        (["--scheduler.prediction_type", "v"], "must be one of 'epsilon', 'v_prediction', 'sample'."),
        (["--train.batch_size", "0"], "train.batch_size is 0, but must be above 0."),
        (["--train.learning_rate=-1e-4"], "train.learning_rate is -0.0001, but must be above 0."),
        (["--train.learning_rate", ".nan"], "train.learning_rate is nan, but must be above 0."),
        (["--train.log_every", "-1"], "train.log_every is -1, but must be 0 or more."),
        (["--train.max_steps", "0"], "train.max_steps is 0, but must be 1 or more."),
        (["--train.label_dropout", "1.5"], "train.label_dropout is 1.5, but must lie between 0 and 1."),
        (["--train.ema_decay", "2"], "train.ema_decay is 2.0, but must lie between 0 and 1."),
        (["--scheduler.name", "sigmoid", "--scheduler.tau", "0"], "SigmoidScheduler: tau=0.0 must be above 0"),
        (["--scheduler.num_train_timesteps", "0"], "num_train_timesteps"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--data.resolution", "0"], "data.resolution is 0"),
        (["--data.resolution", "36"], "data.resolution is 36, but the network's 4 resolutions halve it 3 times"),
        (["--unet.down_block_types", "[DownBlock2D]"], "unet.down_block_types has 1 entries"),
        (["--unet.up_block_types", "[UpBlock2D, UpBlock2D]"], "unet.up_block_types has 2 entries"),
        (
            ["--unet.block_out_channels=[]", "--unet.down_block_types=[]", "--unet.up_block_types=[]"],
            "unet.block_out_channels",
        ),
        (["--data.num_workers", "-1"], "data.num_workers is -1"),
        (["--data.shuffle_buffer", "0"], "data.shuffle_buffer is 0"),
        (["--data.box_margin", "-1"], "data.box_margin is -1.0"),
        (["--train.epochs", ".inf"], "train.epochs is inf, but must be finite."),
        (["--train.epochs", ".nan"], "train.epochs is nan, but must be above 0."),
        (["--train.weight_decay=-0.1"], "train.weight_decay is -0.1, but must be 0 or more."),
        (["--train.weight_decay", ".inf"], "train.weight_decay is inf, but must be finite."),
        (["--train.max_grad_norm", ".nan"], "train.max_grad_norm is nan, but must be above 0."),
        (["--train.sample_guidance_scale", ".nan"], "train.sample_guidance_scale is nan, but must be a number."),
        (["--train.sample_steps", "1001"], "train.sample_steps is 1001, but the schedule has 1000 timesteps"),
        (["--unet.dropout", "1"], "unet.dropout is 1.0, but must be 0 or more and below 1."),
        (["--unet.layers_per_block", "0"], "unet.layers_per_block is 0, but must be 1 or more."),
        (["--unet.norm_num_groups", "0"], "unet.norm_num_groups is 0, but must be 1 or more."),
        (["--unet.norm_num_groups", "48"], "unet.norm_num_groups is 48, which does not divide 64 in"),
        (["--unet.attention_head_dim", "0"], "unet.attention_head_dim is 0, but must be 1 or more."),
        (["--unet.attention_head_dim", "257"], "but a block with attention has only 256 channels"),
        (
            ["--unet.block_out_channels=[64,128,0,256]"],
            "unet.block_out_channels is [64, 128, 0, 256], but each of them must be 1 or more.",
        ),
        (
            ["--unet.up_block_types", "[UpBlock2D,UpBlock2D,UpBlock,UpBlock2D]"],
            "unet.up_block_types lists 'UpBlock': choose from UpBlock2D and AttnUpBlock2D.",
        ),
    ],
)
def test_mistakes_on_the_command_line(argv, sentence, refused):
    assert sentence in refused(*argv)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--train.validation_fraction", "1"], "train.validation_fraction is 1.0, but must be 0 or more and below 1."),
        (
            ["--train.validation_fraction=-0.1"],
            "train.validation_fraction is -0.1, but must be 0 or more and below 1.",
        ),
        (
            ["--train.validation_fraction", ".nan"],
            "train.validation_fraction is nan, but must be 0 or more and below 1.",
        ),
        (
            ["--data.streaming", "true"],
            "train.validation_fraction is 0.1, which is not supported with data.streaming",
        ),
        (["--train.report_every", "-1"], "train.report_every is -1, but must be 0 or more."),
        (["--train.label_dropout", "0.1"], "there is no option 'train.label_dropout'"),
        (["--train.sample_every", "3"], "there is no option 'train.sample_every'"),
        (["--unet.dropout", "0.1"], "there is no option 'unet.dropout'; did you mean 'classifier.dropout'?"),
        (["--classifier.dropuot", "0.1"], "did you mean 'classifier.dropout'?"),
        (["--classifier.down_block_types", "[DownBlock2D]"], "classifier.down_block_types has 1 entries"),
        (
            ["--classifier.block_out_channels=[]", "--classifier.down_block_types=[]"],
            "classifier.block_out_channels is empty",
        ),
        (["--data.resolution", "36"], "or shorten classifier.block_out_channels."),
        (
            ["--classifier.attention_head_dim", "48"],
            "which does not divide 256, the last of classifier.block_out_channels",
        ),
        (["--classifier.attention_head_dim", "512"], "but a block with attention has only 256 channels"),
        (["--classifier.dropout=-0.1"], "classifier.dropout is -0.1, but must be 0 or more and below 1."),
    ],
)
def test_mistakes_in_a_classifier_run(argv, sentence, refused):
    assert sentence in refused(*argv, kind="classifier")


@pytest.mark.parametrize("width", [17, 33, None])
def test_heads_are_checked_where_there_is_attention_and_nowhere_else(width):
    """A head of 33 channels fits no block with 32, unless there is no attention: then nothing is said of heads, and
    the network works. 17 of 32 is one head.
    """
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    options = [f"--unet.{name}=[{','.join(kinds)}]" for name, kinds in blocks.items()]
    options += ["--unet.block_out_channels=[32,32]", f"--unet.attention_head_dim={json.dumps(width)}"]
    options += ["--data.resolution=8", "--data.channels=1"]
    unet = build_unet(parse(*options, "--unet.add_attention=false"), 3)
    arguments = torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long)
    assert unet(*arguments).sample.shape == (1, 1, 8, 8)
    if width == 33:
        for where in ([], ["--unet.add_attention=false", "--unet.up_block_types=[AttnUpBlock2D,UpBlock2D]"]):
            with pytest.raises(SystemExit):
                parse(*options, *where)
    else:
        assert build_unet(parse(*options), 3)(*arguments).sample.shape == (1, 1, 8, 8)


def test_sample_steps_matter_only_where_samples_are_drawn():
    short = ["--scheduler.num_train_timesteps", "20", "--train.sample_steps", "25"]
    assert parse(*short, "--train.sample_every", "0").train.sample_steps == 25
    with pytest.raises(SystemExit):
        parse(*short, "--train.sample_every", "0", "--train.evaluate_every", "5")


def test_an_infinite_norm_of_gradients_is_accepted():
    assert parse("--train.max_grad_norm", ".inf").train.max_grad_norm == float("inf")


def test_a_stream_without_held_out_images_is_accepted():
    config = parse("--data.streaming", "true", "--train.validation_fraction", "0", kind="classifier")
    assert config.data.streaming and config.train.validation_fraction == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("train: {batch_sise: 3}", "there is no option 'train.batch_sise'; did you mean 'train.batch_size'?"),
        ("scheduler: {name: cosine, tau: 0.5}", "there is no option 'scheduler.tau'"),
        ("scheduler: {name: cosnie}", "There is no schedule 'cosnie'; did you mean 'cosine'?"),
        ("scheduler: {name: 3}", "There is no schedule '3'; choose from cauchy"),
        ("scheduler: {name: knots, log_snr: [9, 9]}", "each below the one before"),
        ("unte: {dropout: 0.5}", "unte"),
        ("train: {batch_size: [1, 2]}", "train.batch_size"),
        ("train: {batch_size: 3", ""),
        ("data: {resolution: 8}\nscheduler:\n", "The section scheduler in "),
        ("scheduler: {}\ntrain:\n", "wrong.yaml is empty: give it options, or remove it."),
        ("scheduler: {name: }", "wrong.yaml is empty: choose from cauchy"),
        ("data: 3", "wrong.yaml is 3, but must be a section with options."),
        ("- a\n- b", ""),
    ],
)
def test_mistakes_in_a_file(content, sentence, refused, tmp_path):
    (tmp_path / "wrong.yaml").write_text(content)
    assert sentence in refused("--config", str(tmp_path / "wrong.yaml"))


def test_output_dir_is_required(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_run([], kind="conditional", description="test")
    assert "output_dir" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["label_dropout", "sample_guidance_scale", "validation_fraction"])
def test_an_unconditional_run_has_no_conditioning_options(option, refused):
    sentence = refused(f"--train.{option}", "0.1", kind="unconditional")
    assert f"there is no option 'train.{option}'" in sentence


def test_help_documents_every_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse("--scheduler.name", "sigmoid", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    for section, options in (("data", DataConfig), ("unet", UNetConfig), ("train", ConditionalTrainConfig)):
        for field in fields(options):
            assert f"--{section}.{field.name} " in shown
    assert "Temperature: small values spread log-SNR wide" in shown
    assert "Probability of replacing the label of an image by the null class" in shown
    assert "trained_betas" not in shown
    with pytest.raises(SystemExit, match="0"):
        parse("--help", kind="classifier")
    shown = " ".join(capsys.readouterr().out.split())
    for section, options in (("classifier", ClassifierConfig), ("train", ClassifierTrainConfig)):
        for field in fields(options):
            assert f"--{section}.{field.name} " in shown
    assert "Fraction of the images that are set aside" in shown and "Peak learning rate." in shown


@pytest.mark.parametrize("equals", [False, True])
def test_another_schedule_leaves_the_arguments_of_the_first_behind(equals, tmp_path):
    """tau belongs to sigmoid; what every schedule takes, such as the prediction type, stays."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("scheduler: {name: sigmoid, tau: 0.7, prediction_type: v_prediction}\n")
    second.write_text("scheduler: {name: knots, log_snr: [9, 0, -9]}\n")
    given = [f"--config={first}"] if equals else ["--config", str(first)]
    config = parse(*given, "--config", str(second))
    assert config.scheduler["name"] == "knots" and config.scheduler["log_snr"] == [9, 0, -9]
    assert config.scheduler["prediction_type"] == "v_prediction" and "tau" not in config.scheduler
    assert parse(*given, "--scheduler.name", "linear").scheduler["beta_end"] == 0.02
    assert parse(*given).scheduler["tau"] == 0.7


def test_a_mistyped_argument_is_still_refused(refused, tmp_path):
    first = tmp_path / "first.yaml"
    first.write_text("scheduler: {name: sigmoid, tua: 0.7}\n")
    assert "scheduler.tua" in refused("--config", str(first), "--scheduler.name", "linear")
