"""What people type and have on their disks by mistake: each is refused in one sentence, before any work."""

import itertools
import shlex
from pathlib import Path
from random import Random

from benchmarks.campaign import input_files
from benchmarks.campaign.trials import Trial, judge
from benchmarks.campaign.world import World

NAME = "inputs"
INPUTS = """
# Training: options that do not exist, or are of another kind.
train --train.batch_sise 8
train --batch_size 8
train --train.batch_size eight
train --train.batch_size 0
train --train.batch_size -4
train --train.batch_size 7 --train.gradient_accumulation_steps 2
train --train.learning_rate nan
train --train.learning_rate 0
train --train.lr_schedule cosin
train --train.mixed_precision fp8
train --train.max_steps 0
train --train.max_steps 1.5
train --train.ema_decay 1.5
train --train.label_dropout 2
train --train.sample_steps 100000
train --train.evaluate_network nothing/there/at/all
train --train.evaluate_images 1
train --train.trackers tensorbord
train --train.keep_checkpoints 0
train --train.max_grad_norm -1
train --train.seed -1
train --train.batch_size
train --scheduler.name cosin
train --scheduler.name nothing.py:schedule
train --scheduler.num_train_timesteps 0
train --scheduler.prediction_type x
train --unet.block_out_channels [8]
train --unet.block_out_channels [7,16]
train --unet.attention_head_dim 64
train --unet.norm_num_groups 0
train --unet.layers_per_block 0
train --unet.down_block_types [Nothing,AttnDownBlock2D]
train --unet.sample_size 12
# Training: data.
train --data.data_files nothing.parquet
train --data.data_files {f}/empty.parquet
train --data.data_files {f}/text.parquet
train --data.data_files {f}/truncated.parquet
folder --data.path {f}/nothing_there
folder --data.path {f}/empty_folder
folder --data.path {f}/one_class
folder --data.path {f}/mixed
folder --data.path {f}/broken_picture
folder --data.path {f}/text.txt
train --data.path {f}/broken_picture
train --data.image_column picture
train --data.label_column class
train --data.split validation
train --data.resolution 0
train --data.resolution 9
train --data.channels 2
train --data.fit squeeze
train --data.crop_to_box true
train --data.cache_dir {f}/text.txt
# Training: configurations, outputs, resuming, publishing.
train --config nothing.yaml
train --config digits_16_conditionel
train --config {f}/not_yaml.yaml
train --config {f}/list.yaml
train --config {f}/unknown_section.yaml
train --config {f}/binary.yaml
train --config {f}
train --config {checkout}/configs/digits_16_classifier.yaml
train --output_dir {f}/text.txt
train --output_dir {f}/text.txt/run
train --output_dir ""
train --output_dir {long}
train --resume_from {f}/nothing_there
train --resume_from {f}/empty_folder
train --resume_from {classifier}
train --push_to_hub
train --hub_model_id user/name
train --push_to_hub --hub_model_id a/b/c
train surplus
classifier --train.validation_fraction 1
classifier --classifier.block_out_channels []
unconditional --train.label_dropout 0.1
unconditional --data.resolution 1000000
# Sampling.
sample --model {f}/nothing_there
sample --model {f}/empty_folder
sample --model {classifier}
sample --model {run}/config.yaml
sample --model ""
sample --labels ten
sample --labels 10
sample --labels 0.5*3
sample --labels @{f}/nothing.txt
sample --labels @{f}/binary.yaml
sample --labels ""
sample --steps 0
sample --steps 1001
sample --solver dpmm
sample --guidance_scale two
sample --guidance_scale nan
sample --guidance_scale ""
sample --guidance_interval [1]
sample --guidance_schedule [[0,1],[0,2]]
sample --guidance_schedule {f}/nothing.py:w
sample --guidance_schedule {f}/raises.py:w
sample --guidance_schedule {f}/syntax.py:w
sample --guidance_rescale 2
sample --dynamic_thresholding 2
sample --cfg_plus_plus true --guidance_scale 3
sample --guidance_model {classifier}
sample --classifier {run}
sample --classifier_scale 2
sample --timesteps_from nothing
sample --timesteps_from {f}/not_yaml.yaml
sample --num_images 0
sample --num_images -3
sample --batch_size 0
sample --seed -1
sample --output {f}/text.txt
sample --output {f}/full_folder
sample --output {long}
sample --revision main --model nobody/nothing
grid --grid {f}/grid
grid --grid {f}/grid.gif
grid --grid {f}/empty_folder
grid --grid {f}/text.txt/grid.png
# Measuring.
evaluate --metrics fud
evaluate --metrics ""
evaluate --network nothing
evaluate --network {f}/text.txt
evaluate --network {f}/text.pt
evaluate --network {run}
evaluate --reference {f}/nothing
evaluate --reference {f}/empty_folder
evaluate --reference {f}/not_yaml.yaml
evaluate --reference {f}/text.safetensors
evaluate --reference {run}/unet/diffusion_pytorch_model.safetensors
evaluate --num_images 1
evaluate --seeds 1,1
evaluate --seeds x
evaluate --replicates 1
evaluate --max_images 1
evaluate --guidance_scale 1,2
evaluate --pin 0123
evaluate --export_reference {f}/statistics.npz
evaluate --validation_data test
evaluate --accuracy_classifier {run}
evaluate --output {f}/text.txt
evaluate --images {samples}
images --images {f}/nothing_there
images --images {f}/empty_folder
images --images {f}/text.txt
images --images {f}/sizes
images --images {f}/broken_picture
images --images {f}/unknown_class
images --num_images 100000
compare {f}/nothing_there
compare {classifier}
compare --rank_by speed
compare --steps 0
compare --solver x
compare --halving_rounds 9
compare --output {f}/text.txt
compare {run} {run}
compare one={run} one={classifier}
compare {run} ={run}
# Publishing, and the laboratory of schedules.
publish --model {f}/nothing_there
publish --model {f}/empty_folder
publish --hub_model_id "a b"
publish --hub_model_id a/b/c
publish --metrics {f}/nothing_there
publish --metrics {f}/text.txt
publish --samples {f}/text.txt
publish --samples {f}/nothing.png
publish --variants fp8
publish --output {f}/text.txt
publish --output {f}/full_folder
schedules --data.data_files nothing.parquet
schedules --schedules nothing
schedules --output {f}/text.txt
schedules --max_images 0
"""
LINES = [line for line in INPUTS.splitlines() if line.strip() and not line.startswith("#")]
COUNT = len(LINES)
IS_LIST = True


def trial(world: World, number: int, random: Random) -> Trial:
    """Run a command with one thing wrong."""
    line = LINES[number % COUNT]
    folder = world.trial(NAME, number)
    input_files.write(folder)
    base, *words = shlex.split(line)
    names = {"f": folder, "run": world.path("run"), "classifier": world.path("classifier"), "long": "x" * 300}
    names |= {"samples": world.path("samples"), "checkout": Path(__file__).resolve().parents[2]}
    words = [word.format_map(names) for word in words]
    runs = list(itertools.takewhile(lambda word: not word.startswith("-"), words)) if base == "compare" else []
    command = {
        "train": lambda: world.train(folder / "out", 2, 2, cache=folder / "cache"),
        "folder": lambda: world.train_on_folder(folder / "out", folder / "cache"),
        "classifier": lambda: world.train_classifier(folder / "out", 2),
        "unconditional": lambda: world.train_unconditional(folder / "out"),
        "sample": lambda: world.sample(world.path("run"), folder / "out", 4),
        "grid": lambda: world.command("sample", "--model", world.path("run"), "--num_images", 4, "--steps", 2),
        "evaluate": lambda: world.evaluate("model", world.path("run"), folder / "out"),
        "images": lambda: world.evaluate(
            "images", world.path("samples"), folder / "out", "--reference", world.path("run") / "config.yaml"
        ),
        "compare": lambda: world.compare(folder / "out", *runs),
        "publish": lambda: world.publish(world.path("run"), folder / "out"),
        "schedules": lambda: world.command(
            *("analyze_schedules", "--config", f"{names['checkout']}/configs/digits_16_conditional.yaml"),
            *("--data.data_files", world.data, "--output", folder / "out"),
        ),
    }[base]().also(*words[len(runs) :])
    outcome = world.run(command)
    verdict, detail = judge(outcome, "it was accepted")
    return Trial(NAME, number, line, verdict, str(command), detail)
