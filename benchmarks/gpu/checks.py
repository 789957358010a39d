"""Part a: everything that probably breaks on a GPU, on the shipped networks, with two or four steps each."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.options import ROOT
from benchmarks.gpu.record import Failed
from benchmarks.gpu.world import Entry, World, config_names
from cardiff.config.schedule import make_schedule
from cardiff.devices import float32_products
from cardiff.diffusion.networks import build_unet
from cardiff.diffusion.randomness import image_generator
from cardiff.files import remove
from cardiff.integrity import find_damage
from cardiff.pipelines import ClassConditionalPipeline
from cardiff.sampling.draw import to_uint8
from cardiff.sampling.solvers import SOLVERS, make_solver
from cardiff.training.checkpoint import list_checkpoints, step_of
from cardiff.training.sharding import whole
from cardiff.training.trainer import Trainer

PRECISIONS = ("no", "bf16", "fp16")
MAIN = "cifar10_32_conditional"
"""The configuration of the checks that need only one."""
IN_BF16 = (MAIN, "cifar10_32_classifier")
"""The configurations that a dry run, too, resumes in bf16, which a CPU emulates slowly."""
TOLERANCE = 0.1
"""Difference of a resumed run on a GPU, relative to what it should have learned: sums on a GPU are in no fixed order,
which turns the signs of gradients near 0, but a moment in the wrong place makes it about 1. On a CPU it must be 0."""
BATCH = 4
NETWORK = "in the network: "
PATIENCE = 60.0
"""Seconds that a run may take to end after a signal."""


def entries(world: World) -> list[Entry]:
    """The checks, the likeliest to fail first."""
    found: list[Entry] = []

    def add(name: str, run: Callable[..., dict], *arguments: Any, **entry: Any) -> None:
        found.append(Entry(name, lambda: run(world, *arguments), **entry))

    for name, precision, parts in (
        *((MAIN, precision, 1) for precision in PRECISIONS),
        *((MAIN, "bf16", 2), ("cifar10_32_classifier", "bf16", 1)),
    ):
        title = f"a step does not wait: {name}, {precision}, {'one part' if parts == 1 else f'{parts} parts'}"
        add(title, step_without_waiting, name, precision, parts, needs_cuda=True)
    add("a classifier's report", classifier_report)
    add("fp16: an overflow, with accumulation", overflow, needs_cuda=True)
    for solver in SOLVERS:
        add(f"what waits in sampling: {solver}", sampling_waits, solver, needs_cuda=True)
    for solver in SOLVERS:
        add(f"the images of the CPU: {solver}", same_images, solver, needs_cuda=True)
    add("torchrun: compiled, with DDP", compiled_ddp)
    add("torchrun: SIGTERM to the process group", sigterm)
    add("accelerate: FSDP2, saved and resumed", fsdp, needs_cuda=True)
    for title, options in (
        ("channels_last", {"channels_last": True}),
        ("no channels_last", {"channels_last": False}),
        ("accumulation", {"gradient_accumulation_steps": 2}),
        ("compile", {"compile": True}),
        ("CUDA graphs", {"compile": "reduce-overhead"}),
    ):
        add(f"resume with {title}: {MAIN}", resume, MAIN, "bf16", options, needs_cuda=title == "CUDA graphs")
    for precision in ("bf16", "fp16", "no"):
        for name in config_names():
            options = {"needs_cuda": precision == "fp16", "dry": precision == "no" or name in IN_BF16}
            add(f"resume: {name}, {precision}", resume, name, precision, {}, **options)
    return found


def resume(world: World, name: str, precision: str, options: dict[str, Any]) -> dict[str, Any]:
    """Steps, a checkpoint and as many steps again, against the same from the checkpoint."""
    half = 4 if precision == "fp16" else 2  # the loss scale starts so high that the first steps may be skipped
    folder = world.fresh("resume")
    config = world.configuration(
        name,
        folder,
        mixed_precision=precision,
        batch_size=BATCH,
        lr_warmup_steps=0,
        max_steps=2 * half,
        checkpoint_every=half,
        log_every=1,
        **options,
    )
    with world.trainer(config) as trainer:
        start = {name: p.detach().cpu().clone() for name, p in trainer.named_parameters()}
        for _ in range(half):
            trainer.step()
            trainer.run_callbacks()
        for _ in range(half):
            trainer.step()
        uninterrupted, peak = state(trainer), world.peak_mib()
        loss = logged(folder)[-1]["loss"]
    with world.trainer(config) as trainer:
        if trainer.global_step != half:
            raise Failed(f"The run resumed at step {trainer.global_step}, not {half}.")
        for _ in range(half):
            trainer.step()
        resumed = state(trainer)
    remove(folder)
    for part in ("weights", "averages"):  # what was learned, not what was there at the start
        for each in (uninterrupted, resumed):
            each[part] = {key: value - start[key] for key, value in each[part].items()}
    differences = {part: relative_difference(resumed[part], uninterrupted[part]) for part in uninterrupted}
    most = TOLERANCE if world.cuda else 0.0
    worst = max(differences, key=lambda part: (np.isnan(differences[part]), differences[part]))
    found = {"differences": differences, "tolerance": most, "loss": loss, "peak_memory_mib": peak}
    if not differences[worst] <= most:
        raise Failed(f"The {worst} of the resumed run differ by {differences[worst]:.3g}, more than {most:g}: {found}")
    return found


def state(trainer: Trainer) -> dict[str, dict[str, torch.Tensor]]:
    """Weights, their averages and the optimizer's moments, by parameter."""
    named = trainer.named_parameters()
    moments = trainer.optimizer.state
    found = {"weights": dict(named), "averages": dict(zip((name for name, _ in named), trainer.ema.shadow_params))}
    for moment in ("exp_avg", "exp_avg_sq", "momentum_buffer"):  # AdamW's, and Muon's
        if kept := {name: moments[p][moment] for name, p in named if moment in moments[p]}:
            found[moment] = kept
    return {
        part: {name: whole(t.detach()).cpu().clone() for name, t in known.items()} for part, known in found.items()
    }


def relative_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Σ|found − expected| / Σ|expected| over all tensors; NaN if nothing was learned."""
    difference = sum((found[name] - expected[name]).abs().double().sum().item() for name in expected)
    size = sum(tensor.abs().double().sum().item() for tensor in expected.values())
    return difference / size if size else float("nan")


def classifier_report(world: World) -> dict[str, Any]:
    """A classifier's step and its report, on the device."""
    folder = world.fresh("report")
    settings = {
        "max_steps": 1,
        "batch_size": BATCH,
        "report_every": 1,
        "mixed_precision": "bf16",
        "lr_warmup_steps": 0,
    }
    with world.trainer(world.configuration("cifar10_32_classifier", folder, **settings)) as trainer:
        trainer.step()
        trainer.run_callbacks()
    report = json.loads((folder / "reports/step-00000001.json").read_text())
    losses = [level["cross_entropy"] for level in [report["clean"], *report["levels"]]]
    if not np.isfinite(losses).all():
        raise Failed(f"The cross-entropy is not finite at every noise level: {losses}.")
    remove(folder)
    return {"levels": len(report["levels"]), "images": report["clean"]["images"]}


def step_without_waiting(world: World, name: str, precision: str, parts: int) -> dict[str, Any]:
    """Two steps in which torch raises at whatever waits for the device, after three that set everything up."""
    settings = {
        "mixed_precision": precision,
        "batch_size": BATCH,
        "gradient_accumulation_steps": parts,
        "max_steps": 100,
    }
    with world.trainer(world.configuration(name, world.fresh("waiting"), **settings)) as trainer:
        for _ in range(3):
            trainer.step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(2):
                trainer.step()
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            raise Failed(
                f"A step waits for the device at {_site(traceback.extract_tb(error.__traceback__))}."
            ) from error
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"steps": 2}


def overflow(world: World) -> dict[str, Any]:
    """fp16: a gradient overflows in a part of a batch: the step is skipped, the scale falls, and training goes on."""
    settings = {"batch_size": BATCH, "gradient_accumulation_steps": 2, "lr_warmup_steps": 0, "max_steps": 100}
    config = world.configuration(MAIN, world.fresh("overflow"), mixed_precision="fp16", log_every=1, **settings)
    with world.trainer(config) as trainer:
        scaler = trainer.accelerator.scaler
        if scaler is None:
            raise Failed("Accelerate has no gradient scaler, though the precision is fp16.")
        first = next(iter(trainer.model.parameters()))
        for _ in range(8):
            trainer.step()
        before, scale = first.detach().clone(), scaler.get_scale()
        hook = first.register_hook(lambda gradient: gradient * torch.inf)
        trainer.step()
        hook.remove()
        halved = scaler.get_scale()
        if not torch.equal(first, before):
            raise Failed("The weights changed in a step whose gradient overflowed.")
        if not halved < scale:
            raise Failed(f"The loss scale was {scale:g} before an overflow and {halved:g} after it.")
        trainer.step()
        trainer.run_callbacks()
        if torch.equal(first, before) or not all(p.isfinite().all() for p in trainer.model.parameters()):
            raise Failed("The step after an overflow does not train, or leaves weights that are not finite.")
    return {"scale_before": scale, "scale_after": halved}


def pipeline(world: World, solver: str, dtype: torch.dtype = torch.float32) -> ClassConditionalPipeline:
    """The main configuration's UNet with its initial weights, and a solver."""
    config = world.configuration(MAIN, world.folder("unused"))
    unet = build_unet(config, 10).eval()
    for parameter in unet.conv_out.parameters():  # as a trained network, it should not predict almost nothing
        torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(0))
    made = ClassConditionalPipeline(
        unet.to(world.device, dtype), make_solver(make_schedule(config.scheduler).to_stock(), solver), None
    )
    made.set_progress_bar_config(disable=True)
    return made


def sampling_waits(world: World, solver: str) -> dict[str, Any]:
    """Where the loop over the steps waits for the device, and how often a step; none may be in the network."""
    made, steps, places = pipeline(world, solver, torch.bfloat16), 8, Counter()

    def show(message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" in str(message):
            stack = traceback.extract_stack()[:-1]
            places[
                ("in the network: " if any("unet_2d.py" in frame.filename for frame in stack) else "") + _site(stack)
            ] += 1

    def after(_pipeline: Any, i: int, t: Any, tensors: dict) -> dict:
        if i == 1:
            torch.cuda.set_sync_debug_mode("warn")
        if i == steps - 2:
            torch.cuda.set_sync_debug_mode("default")
        return {}

    made(
        list(range(8)),
        num_inference_steps=steps,
        generator=[image_generator(0, i) for i in range(8)],
        output_type="pt",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        made(
            list(range(8)),
            guidance_scale=2.0,
            num_inference_steps=steps,
            generator=[image_generator(0, i) for i in range(8)],
            output_type="pt",
            callback_on_step_end=after,
        )
    torch.cuda.set_sync_debug_mode("default")
    watched = steps - 3
    found = {"waits_per_step": round(sum(places.values()) / watched, 2), "places": dict(places.most_common())}
    if any(place.startswith(NETWORK) for place in places):
        raise Failed(f"The network waits for the device: {found}")
    return found


def same_images(world: World, solver: str) -> dict[str, Any]:
    """The same images on the GPU as on the CPU, from the same seeds, within rounding; the network is in float32."""
    drawn = []
    for device in (world.device, torch.device("cpu")):
        made = pipeline(world, solver).to(device)
        generators = [image_generator(0, i) for i in range(4)]
        with float32_products(tf32=False):
            images = made(list(range(4)), num_inference_steps=8, generator=generators, output_type="pt").images
        drawn.append(to_uint8(images).astype(int))
    difference = np.abs(drawn[0] - drawn[1])
    found = {"largest_difference": int(difference.max()), "share_differing": round(float((difference > 0).mean()), 5)}
    if difference.max() > 4:
        raise Failed(f"Images of the GPU and of the CPU differ by up to {difference.max()} of 255.")
    return found


def compiled_ddp(world: World) -> dict[str, Any]:
    """A compiled network in DDP, started by torchrun with one process."""
    folder = world.fresh("ddp")
    command = torchrun(world, folder, compile=True, max_steps=3)
    seconds = finish(command)
    steps = [entry["step"] for entry in logged(folder)]
    if steps != [1, 2, 3]:
        raise Failed(f"The log has the steps {steps}, not 1 to 3.")
    remove(folder)
    return {"seconds": seconds, "compiled": os.environ.get("TORCH_COMPILE_DISABLE") != "1"}


def fsdp(world: World) -> dict[str, Any]:
    """configs/accelerate/fsdp.yaml with one process: two steps, and two more from its checkpoint."""
    folder, seconds = world.fresh("fsdp"), []
    launcher = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(ROOT / "configs/accelerate/fsdp.yaml"), "--num_processes", "1"),
    ]
    for stop in (2, 4):
        seconds.append(finish([*launcher, *training(world, folder, max_steps=stop)]))
    steps = [entry["step"] for entry in logged(folder)]
    if steps != [1, 2, 3, 4]:
        raise Failed(f"The log of a resumed FSDP run has the steps {steps}, not 1 to 4.")
    remove(folder)
    return {"seconds": seconds}


def sigterm(world: World) -> dict[str, Any]:
    """SIGTERM to everything that torchrun has started, as batch systems send it, leaves an intact checkpoint."""
    folder = world.fresh("sigterm")
    command = torchrun(world, folder, max_steps=1_000_000)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        try:
            while len(logged(folder)) < 2 and process.poll() is None:
                time.sleep(0.1)
            asked = time.perf_counter()
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(PATIENCE)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            output.seek(0)
            raise Failed(f"The run did not end as it should: {output.read()[-3000:]}") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        seconds = time.perf_counter() - asked
        output.seek(0)
        said = output.read()
    saved = list_checkpoints(folder / "checkpoints")
    if not saved:
        raise Failed(f"SIGTERM to the process group left no checkpoint: {said[-3000:]}")
    newest = max(saved, key=step_of)
    damage = find_damage(newest)
    if damage is not None:
        raise Failed(f"SIGTERM to the process group left a damaged checkpoint: {damage}")
    found = {"step": step_of(newest), "seconds": round(seconds, 1)}
    remove(folder)
    return found


def training(world: World, folder: Path, **train: Any) -> list[str]:
    """Arguments that train the main configuration on generated images."""
    settings = {"batch_size": BATCH, "log_every": 1, "checkpoint_every": 0, "mixed_precision": "bf16", **train}
    command = [str(ROOT / "train_conditional.py"), "--config", str(ROOT / f"configs/{MAIN}.yaml")]
    command += ["--output_dir", str(folder)]
    for name, value in world.settings(MAIN, **settings).items():
        command += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return command


def torchrun(world: World, folder: Path, **train: Any) -> list[str]:
    """The same, started by torchrun with one process."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    return [sys.executable, *launcher, *training(world, folder, **train)]


def finish(command: list[str], limit: float = 200.0) -> float:
    """Run a command and return its seconds.

    Raises:
        Failed: It takes longer than the limit, or does not end with 0; the message has the end of its output.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise Failed(f"No end after {limit:.0f} s: {' '.join(command)}") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise Failed(f"{' '.join(command)} ended with status {process.returncode}: {output[-4000:]}")
    return round(time.perf_counter() - start, 1)


def logged(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's log that are complete."""
    file = folder / "logs/metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _site(stack: Any) -> str:
    """The innermost lines of a stack: where in this project, in a library and in torch."""
    frames = [frame for frame in stack if "/benchmarks/" not in frame.filename]
    return " < ".join(f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno} {f.name}" for f in reversed(frames[-4:]))
