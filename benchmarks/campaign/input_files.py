"""Files that people have on their disks by mistake."""

from pathlib import Path

import numpy as np
from PIL import Image


def write(folder: Path) -> None:
    """Lay them out in a folder."""
    for name in ("text.txt", "text.parquet", "text.safetensors", "text.pt"):
        (folder / name).write_text("This is a text.\n")
    (folder / "empty.parquet").touch()
    (folder / "truncated.parquet").write_bytes(b"PAR1" + bytes(300))
    (folder / "not_yaml.yaml").write_text("data: [1, 2\n  path: {")
    (folder / "list.yaml").write_text("- data\n- train\n")
    (folder / "unknown_section.yaml").write_text("trian:\n  max_steps: 2\n")
    (folder / "binary.yaml").write_bytes(bytes(range(256)))
    (folder / "raises.py").write_text("def w(log_snr):\n    return 1 / 0\n")
    (folder / "syntax.py").write_text("def w(log_snr:\n")
    for name in ("empty_folder", "full_folder"):
        (folder / name).mkdir()
    (folder / "full_folder/notes.txt").write_text("Mine.\n")
    _pictures(folder / "one_class", {"a": [8, 8]})
    _pictures(folder / "mixed", {"a": [8, 8], "": [8]})
    _pictures(folder / "sizes", {"0": [8, 8, 9], "1": [8]})
    _pictures(folder / "unknown_class", {"0": [8] * 13, "eleven": [8] * 12})
    _pictures(folder / "broken_picture", {"0": [8] * 12, "1": [8] * 12})
    (folder / "broken_picture/0/00.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")


def _pictures(folder: Path, classes: dict[str, list[int]]) -> None:
    """Noise of these sizes for each class."""
    random = np.random.default_rng(0)
    for name, sizes in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, size in enumerate(sizes):
            Image.fromarray(random.integers(0, 256, (size, size), dtype=np.uint8)).save(folder / name / f"{i:02d}.png")
