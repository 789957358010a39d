"""What the attacks of hostile.py write. Each function here returns, or is, one that changes the folder of a trial."""

import hashlib
import json
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

MARKER = "executed"
"""The file that every payload makes."""
SECRET = "do-not-pass-this-on-4711"
Spoil = Callable[[Path], object]


class _Bomb:
    """Makes the marker when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self) -> tuple:
        return open, (self.marker, "w")


def lay_out(folder: Path) -> None:
    """What lies beside the folders that are read, and is not theirs."""
    (folder / "secret.txt").write_text(SECRET)
    (folder / "secret.json").write_text(json.dumps({"secret": SECRET}))
    save_file({"x": np.frombuffer(SECRET.encode(), np.uint8)}, folder / "secret.safetensors")
    (folder / "secret").mkdir()
    shutil.copy(folder / "run/unet/config.json", folder / "secret/config.json")
    shutil.copytree(folder / "run/scheduler", folder / "elsewhere")
    (folder / "elsewhere/secret.txt").write_text(SECRET)
    (folder / "evil.py").write_text(_source(folder))


def _source(folder: Path) -> str:
    marker = f"open({str(folder / MARKER)!r}, 'w')\n"
    function = f"def evil(*arguments):\n    {marker}    return np.linspace(0.99, 0.01, 1000)\n"
    return f"{marker}import numpy as np\n\n\n{function}"


def seal(folder: Path) -> None:
    """Checksums that fit what lies there, as whoever spoiled it would write them."""
    listed = folder / "checksums.json"
    if listed.exists():
        try:
            names = json.loads(listed.read_text())
        except (ValueError, RecursionError):
            return
        kept = {name: file for name in names if (file := folder / name).is_file()}
        sums = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in kept.items()}
        listed.write_text(json.dumps(sums))


def pickled(name: str) -> Spoil:
    """A pickle that runs code."""

    def spoil(folder: Path) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(_Bomb(folder / MARKER)))
        if file.parent.name == "network":
            (file.parent / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))

    return spoil


def only_pickle(weights: str) -> Spoil:
    """A pickle where there should be safetensors."""

    def spoil(folder: Path) -> None:
        (folder / weights).unlink()
        pickled(weights.replace(".safetensors", ".bin"))(folder)

    return spoil


def index(weights: str, target: str) -> Spoil:
    """An index that names another file for every tensor."""

    def spoil(folder: Path) -> None:
        file = folder / weights
        names = dict.fromkeys(load_file(file), target)
        pickled(str(Path(weights).with_name("diffusion_pytorch_model.bin")))(folder)
        file.with_name(f"{file.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))

    return spoil


def object_array(name: str) -> Spoil:
    """An array of objects, which numpy would unpickle."""

    def spoil(folder: Path) -> None:
        for file in folder.glob(f"cache/**/{name}"):
            bombs = np.empty(200, dtype=object)
            bombs[:] = _Bomb(folder / MARKER)
            np.save(file, bombs, allow_pickle=True)

    return spoil


def code(name: str) -> Spoil:
    """Source that makes the marker when it is imported."""

    def spoil(folder: Path) -> None:
        before = (folder / name).read_text()
        (folder / name).write_text(_source(folder) + before)

    return spoil


def edit(name: str, **values: Any) -> Spoil:
    """Other values in a JSON file."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **values}))
        for word in ("evil", "Evil"):
            target = (folder / name).parent / f"{word.lower()}.py"
            target.write_text(_source(folder))

    return spoil


def text(name: str, content: str) -> Spoil:
    """Another content."""

    def spoil(folder: Path) -> None:
        (folder / name).write_text(content)

    return spoil


def nested(name: str) -> Spoil:
    """A hundred thousand brackets, in a line."""
    return text(name, "[" * 100_000 + "]" * 100_000 + "\n")


def header(name: str, shape: list[int] | None) -> Spoil:
    """A safetensors header that claims to be long (None), or a tensor of this shape."""

    def spoil(folder: Path) -> None:
        file = folder / name
        if shape is None:
            file.write_bytes(struct.pack("<Q", 2**60) + file.read_bytes()[8:])
            return
        content = {tensor: {"dtype": "F32", "shape": shape, "data_offsets": [0, 2**62]} for tensor in load_file(file)}
        encoded = json.dumps(content).encode()
        file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(64))

    return spoil


def npy_header(name: str) -> Spoil:
    """An array that claims to have exabytes."""

    def spoil(folder: Path) -> None:
        for file in folder.glob(f"cache/**/{name}"):
            with open(file, "r+b") as opened:
                what = {"descr": "|u1", "fortran_order": False, "shape": (10**15, 1, 32, 32)}
                np.lib.format.write_array_header_1_0(opened, what)

    return spoil


def tensors(name: str, value: float) -> Spoil:
    """One number of every tensor is another."""

    def spoil(folder: Path) -> None:
        from safetensors import safe_open

        with safe_open(folder / name, "np") as file:
            metadata = file.metadata()
        content = {key: np.array(tensor) for key, tensor in load_file(folder / name).items()}
        for tensor in content.values():
            if tensor.dtype.kind == "f":
                tensor.flat[0] = value
        save_file(content, folder / name, metadata=metadata)

    return spoil


def reshaped(name: str) -> Spoil:
    """A mean that does not fit its covariance."""

    def spoil(folder: Path) -> None:
        from safetensors import safe_open

        with safe_open(folder / name, "np") as file:
            metadata = file.metadata()
        content = load_file(folder / name)
        save_file({**content, "mean": content["mean"][:-1].copy()}, folder / name, metadata=metadata)

    return spoil


def feature_nan(folder: Path) -> None:
    """NaN in the cached features."""
    for file in folder.glob("cache/**/features.npy"):
        features = np.load(file)
        features[0, 0] = np.nan
        np.save(file, features)


def betas(value: float) -> Spoil:
    """One beta of the schedule is another."""

    def spoil(folder: Path) -> None:
        file = folder / "run/scheduler/scheduler_config.json"
        content = json.loads(file.read_text())
        content["trained_betas"][10] = value
        file.write_text(json.dumps(content))

    return spoil


def link(name: str, target: str) -> Spoil:
    """A symbolic link out of the folder."""

    def spoil(folder: Path) -> None:
        file = folder / name
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        file.symlink_to(folder / target)

    return spoil


def network_with_code(folder: Path) -> None:
    """A model of transformers that brings its own class."""
    network = folder / "network"
    network.mkdir()
    auto = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForImageClassification"), "evil.Evil")
    (network / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (network / "evil.py").write_text(_source(folder))


def yaml_object(folder: Path) -> None:
    """What yaml.load would call."""
    marker = folder / MARKER
    (folder / "options.yaml").write_text(f"train: !!python/object/apply:builtins.open ['{marker}', 'w']\nsteps: 2\n")


def yaml_schedule(folder: Path) -> None:
    """A function of a file as schedule, which the command line does not show."""
    (folder / "options.yaml").write_text(f"scheduler:\n  name: {folder}/evil.py:evil\n")


def yaml_guidance(folder: Path) -> None:
    """The same as guidance."""
    (folder / "options.yaml").write_text(f"guidance_schedule: {folder}/evil.py:evil\n")


def checksum_elsewhere(folder: Path) -> None:
    """Checksums that name a file outside."""
    for part in ("run", "run/checkpoints/step-00000016"):
        listed = folder / part / "checksums.json"
        digest = hashlib.sha256((folder / "secret.json").read_bytes()).hexdigest()
        listed.write_text(json.dumps({**json.loads(listed.read_text()), "../secret.json": digest}))


def manifest_elsewhere(folder: Path) -> None:
    """A manifest that names a picture outside."""
    shutil.copy(folder / "samples/000000.png", folder / "outside.png")
    file = folder / "samples/manifest.jsonl"
    file.write_text(file.read_text().replace('"000000.png"', '"../outside.png"'))


def huge_picture(folder: Path) -> None:
    """A PNG whose header promises four billion pixels, with checks that fit."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = chunk(b"IHDR", struct.pack(">IIBBBBB", 65000, 65000, 8, 0, 0, 0, 0))
    parts += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (folder / "samples/000003.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
