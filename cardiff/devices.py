"""What a device computes fast: reduced precision, TF32 products, and how many images at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cardiff.config.types import Precision
from cardiff.errors import UserError

CPU_BATCH = 64
"""Images that are evaluated at once by default, on a CPU."""
GPU_PIXELS, GPU_LEAST, GPU_MOST = 256 * 32 * 32, 8, 512
"""Pixels that are evaluated at once by default on a GPU, and the least and the most images.

Below 256 images of 32x32 pixels, launching kernels takes as long as running them; guidance doubles the number, and a
UNet of 128 channels then takes about 5 GB in float32."""
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def multiplies_in_bf16(device: torch.device) -> bool:
    """Whether the hardware has units for bf16 products, rather than emulating them.

    NVIDIA GPUs from Ampere on have, and CPUs with AVX512-BF16 or AMX.
    """
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def training_precision(wanted: str | None, device: torch.device) -> str | None:
    """The value of Accelerate's `mixed_precision` for the option train.mixed_precision.

    "auto" is what `accelerate launch` or its configuration asks for, if that is a reduced precision, and otherwise
    bf16 where the hardware multiplies in it and "no" elsewhere.

    Args:
        wanted: "auto", a precision by Accelerate's name, or None to leave it to Accelerate.
        device: Where the run trains.
    """
    if wanted != "auto":
        return wanted
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched != "no":
        return launched
    return "bf16" if multiplies_in_bf16(device) else "no"


def evaluation_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The precision in which a network is evaluated on a device.

    "auto" is bf16 where the hardware multiplies in it, and float32 elsewhere: always on a CPU, whose results are
    promised to the bit.

    Raises:
        UserError: fp16 on a CPU, where it is emulated.
    """
    if precision == "auto":
        return torch.bfloat16 if device.type != "cpu" and multiplies_in_bf16(device) else torch.float32
    if precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16 needs a GPU: choose float32 or bf16.")
    return DTYPES[precision]


def precision_name(dtype: torch.dtype) -> Precision:
    """The name of a precision, as in the options: "float32", "bf16" or "fp16"."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def batch_size_for(given: int | None, resolution: int, device: torch.device) -> int:
    """Images that are evaluated at once: `given`, or by default 64 on a CPU and as many as pay on a GPU.

    The default depends on nothing that differs between the processes of a launch, since these divide batches.

    Args:
        given: An option, or None for the default.
        resolution: Height and width of the images.
        device: Where they are evaluated.
    """
    if given is not None:
        return given
    if device.type != "cuda":
        return CPU_BATCH
    fitting = max(1, GPU_PIXELS // resolution**2)
    return min(max(1 << (fitting.bit_length() - 1), GPU_LEAST), GPU_MOST)  # rounded down to a power of two


def record_of(dtype: torch.dtype, compiled: bool) -> dict[str, object]:
    """What a record of images says of the precision of the networks that drew them, and of their compilation.

    Nothing of eager float32, so that records of versions that knew nothing else are still valid.
    """
    record: dict[str, object] = {} if dtype == torch.float32 else {"precision": precision_name(dtype)}
    return {**record, "compile": True} if compiled else record


@contextmanager
def fixed_shapes(device: torch.device) -> Iterator[None]:
    """A context in which cuDNN tries its algorithms once for each shape and keeps the fastest; no effect on a CPU."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """A context in which float32 products may (or may not) be rounded to TF32, ten bits of mantissa, on NVIDIA GPUs.

    By default torch rounds those of convolutions but not those of matrix products.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
