"""Part b: images per second of the training step, ours and a bare one, and what share of the card that is."""

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.cards import peak_of
from benchmarks.gpu import data
from benchmarks.gpu.record import DONE, Record
from benchmarks.gpu.world import Entry, World, read_config
from benchmarks.timing import bare_step, our_step, paired, summary
from cardiff.diffusion.flops import training_flops
from cardiff.plotting import BLUE, LIGHT_GREY, new_figure, save_figure

CONFIGS = ("cifar10_32_conditional", "cars_64_conditional", "stanford_cars_64_conditional",
           "stanford_cars_128_conditional")  # fmt: skip
ROUNDS, SECONDS = 5, 1.0
"""Timings of each step in turns, and about how long each takes."""


def entries(world: World) -> list[Entry]:
    """Every configuration as it would be trained, and then what the single options bring."""
    found = [Entry("products of matrices", lambda: matrix_products(world))]

    def add(name: str, title: str, dry: bool, batch_size: int | None = None, **options: Any) -> None:
        found.append(
            Entry(f"{name}: {title}", lambda: step_rate(world, name, batch_size, options), dry=dry, limit=300)
        )

    for compile_, channels_last in ((True, True), (False, True), (False, False), (True, False)):
        for name in CONFIGS:
            title = f"bf16, {'compiled' if compile_ else 'eager'}, {'channels-last' if channels_last else 'NCHW'}"
            dry = compile_ and channels_last
            add(name, title, dry, mixed_precision="bf16", compile=compile_, channels_last=channels_last)
        if compile_ and channels_last:  # a process's share of a batch of 128 on eight GPUs
            for title, mode in (("eager", False), ("compiled", True), ("CUDA graph", "reduce-overhead")):
                add(CONFIGS[0], f"bf16, {title}, 16 images", not mode, 16, mixed_precision="bf16", compile=mode)
    for title, tf32 in (("float32", False), ("TF32", True)):
        settings = {"mixed_precision": "no", "compile": False, "allow_tf32": tf32}
        add(CONFIGS[0], f"{title}, eager, channels-last", True, **settings)
    # Against a bare step of AdamW, so that the ratio is the cost of Muon.
    add(CONFIGS[1], "bf16, Muon, eager", True, mixed_precision="bf16", compile=False, optimizer="muon")
    return found


def matrix_products(world: World) -> dict[str, Any]:
    """TFLOP/s of one large bf16 product: what the card reaches at best, beside its data sheet."""
    size = 8192 if world.cuda else 256
    a, b = (torch.randn(size, size, device=world.device, dtype=torch.bfloat16) for _ in range(2))
    (rounds,) = paired([lambda: a @ b], repeats=20, rounds=3, device=world.device)
    seconds = statistics.median(rounds)
    return {
        "size": size,
        "tflops": round(2 * size**3 / seconds / 1e12, 3),
        "data_sheet_tflops": _peak(world),
    }


def _peak(world: World) -> float | None:
    return peak_of(torch.cuda.get_device_name(world.device)) if world.cuda else None


def step_rate(world: World, name: str, batch_size: int | None, options: dict[str, Any]) -> dict[str, Any]:
    """Our step and the bare one in turns: images per second, FLOP, memory.

    Args:
        world: Where they run.
        name: Of the configuration.
        batch_size: Images in a step, instead of the configuration's.
        options: Of the section `train`.
    """
    content = read_config(name)
    images, source = None, "generated: the dry run"
    if not world.options.dry_run:
        known = data.OF_CONFIG[name.split("_")[0]]
        images = data.locate(known, world.options.data)
        source = known if images else f"generated: {known} is not in any of {', '.join(map(str, world.options.data))}"
    batch_size = 4 if world.options.dry_run else batch_size or content["train"]["batch_size"]
    settings = {"batch_size": batch_size, "max_steps": 10**6, "log_every": 50, "checkpoint_every": 0}
    settings |= {"optimizer": "adamw", **options}  # as the bare step has
    config = world.configuration(name, world.fresh("step"), data=images, **settings)
    with world.trainer(config) as trainer:
        ours = our_step(trainer)
        start = time.perf_counter()
        for _ in range(3):
            ours()
        world.synchronize()
        first, memory = time.perf_counter() - start, world.peak_mib()
        network = trainer.accelerator.unwrap_model(trainer.model)
        precision, mode = trainer.accelerator.mixed_precision, trainer.compile_mode
        bare = bare_step(network, batch_size, world.device, precision, config.train.channels_last, mode)
        (trial,) = paired([ours], repeats=2, rounds=1, device=world.device)
        repeats = max(1, round((0.02 if world.options.dry_run else SECONDS) / trial[0]))
        rounds = 2 if world.options.dry_run else ROUNDS
        seconds = paired([ours, bare], repeats, rounds, world.device)
        with torch.device("meta"):  # without what training has wrapped around it
            flops = training_flops(trainer.network_class.from_config(network.config))
    found = summary(*seconds, batch_size)
    reached = flops * found["images_per_second"] / 1e12
    top = _peak(world)
    return {
        **found,
        "bare_images_per_second": round(batch_size / statistics.median(seconds[1]), 1),
        "compile_mode": mode,
        "batch_size": batch_size,
        "resolution": config.data.resolution,
        "steps_per_timing": repeats,
        "seconds_of_first_three_steps": round(first, 1),
        "gflop_per_image": round(flops / 1e9, 3),
        "tflops": round(reached, 3),
        "share_of_peak": None if top is None else round(reached / top, 3),
        "peak_memory_mib": memory,
        "images": source,
    }


def picture(record: Record, path: Path) -> None:
    """Bars of images per second, ours and bare, for every entry that was timed."""
    timed = {name: entry["values"] for name, entry in record.entries.items()
             if entry["status"] == DONE and "ratio_median" in entry["values"]}  # fmt: skip
    if not timed:
        return
    figure = new_figure(9, 1.2 + 0.38 * len(timed))
    axes = figure.add_subplot()
    rows = range(len(timed))
    ours = [values["images_per_second"] for values in timed.values()]
    axes.barh([y - 0.2 for y in rows], ours, 0.38, color=BLUE, label="our step")
    bare = [values["bare_images_per_second"] for values in timed.values()]
    axes.barh([y + 0.2 for y in rows], bare, 0.38, color=LIGHT_GREY, label="bare step")
    for y, values in zip(rows, timed.values()):
        share = values["share_of_peak"]
        note = f" {values['images_per_second']:,.0f}" + ("" if share is None else f" ({share:.0%} of peak)")
        axes.text(values["images_per_second"], y - 0.2, note, va="center", fontsize=8)
    axes.set_yticks(list(rows), list(timed), fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    dry = "\n(dry run: tiny networks, nothing is compiled)" if record.machine["dry_run"] else ""
    axes.set(xlabel="images per second", title=f"Training step on {record.machine['device']}{dry}")
    figure.legend(loc="outside lower right", ncols=2)
    save_figure(figure, path, dpi=120)
