"""What a notebook shows of a folder that Cardiff has written: a run, samples, or a report."""

import base64
import html
from pathlib import Path

from cardiff.errors import UserError
from cardiff.hub.provenance import RUN_RECORD, RunRecord, read_record
from cardiff.integrity import parse_json, read_json

FIRST = 24
"""Images of a folder of samples that are shown."""
OF_ALL = ("file", "weights_sha256")
"""Fields of a manifest that are not shown."""


class Shown:
    """A folder, as HTML in a notebook and as its name elsewhere."""

    def __init__(self, folder: Path, text: str):
        self.folder, self.text = folder, text

    def __repr__(self) -> str:
        return f"show({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        return self.text


def show(folder: str | Path) -> Shown:
    """Show in a notebook what a command has written.

    Args:
        folder: A run or a published model: how it was trained, and its newest grid of samples. A folder of sample.py:
            its first 24 images with their manifest. A folder of evaluate.py: its figures. One of compare.py:
            the report.

    Returns:
        What the notebook shows as the last line of a cell.

    Raises:
        UserError: The folder is none of these, or damaged.
    """
    folder = Path(folder)
    if (folder / "report.html").is_file():
        return Shown(folder, _report(folder / "report.html"))
    if (folder / "manifest.jsonl").is_file():
        return Shown(folder, _samples(folder))
    record = read_record(folder)
    if record is not None:
        return Shown(folder, _run(folder, record))
    raise UserError(
        f"{folder} has neither {RUN_RECORD} of a run, nor manifest.jsonl of samples, nor a report.html: give a folder "
        "that Cardiff has written."
    )


def _report(file: Path) -> str:
    """The figures of evaluate.py as a table; another report in a frame, where it runs no script."""
    figures = file.with_name("metrics.json")
    if not figures.is_file():
        content = html.escape(file.read_text(encoding="utf-8"))
        return f'<iframe sandbox srcdoc="{content}" style="width:100%;height:36rem;border:1px solid #ddd"></iframe>'
    try:
        found = read_json(figures)["metrics"]
        rows = [[html.escape(name), _number(e["value"]), f"{_number(e['low'])} to {_number(e['high'])}"]
                for name, e in found.items()]  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{figures} is not one of evaluate.py ({error!r}): measure again.") from error
    table = _table(["figure", "value", "95% interval"], rows)
    return f"{table}<p>With pictures: {html.escape(str(file))}</p>"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _samples(folder: Path) -> str:
    """A row for each image: picture, number, class, and the other fields of the manifest."""
    manifest = folder / "manifest.jsonl"
    lines = manifest.read_text(encoding="utf-8").splitlines()
    entries = [parse_json(dict, line, f"{manifest}, line {n}", True) for n, line in enumerate(lines[:FIRST], 1)]
    fields = [name for name in dict.fromkeys(key for entry in entries for key in entry) if name not in OF_ALL]
    rows = []
    for entry in entries:
        name = entry.get("file")
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{manifest} lists {name!r}, which is not in its folder: run sample.py again.")
        rows.append([_picture(folder / name, 64), *(_text(entry.get(field)) for field in fields)])
    more = f"<p>The first {FIRST} of {len(lines):,} images.</p>" if len(lines) > FIRST else ""
    return _table(["", *fields], rows) + more


def _run(folder: Path, record: RunRecord) -> str:
    """How it was trained, and the newest grid of samples."""
    config = record["config"]
    facts = {
        "kind": record["kind"],
        "step": record["step"],
        "images seen": record["images_seen"],
        "seconds": record["seconds"],
        "hardware": record["hardware"],
        "processes": record["processes"],
        "precision": record["precision"],
        "training images": record["images"],
        "data": config["data"]["path"],
        "schedule": config["scheduler"]["name"],
    }
    table = _table([], [[f"<b>{name}</b>", _text(value)] for name, value in facts.items()])
    grids = sorted(folder.glob("samples/step-*.png")) or sorted(folder.glob("samples.png"))
    return table + (_picture(grids[-1]) if grids else "")


def _text(value: object) -> str:
    """A value as a cell."""
    if isinstance(value, dict):
        return ", ".join(f"{html.escape(str(key))}: {_text(item)}" for key, item in value.items())
    if value is None:
        return "–"
    # A seed is a number to copy; others are to be read.
    digits = isinstance(value, int) and not isinstance(value, bool) and value < 10**12
    return html.escape(f"{value:,}" if digits else str(value))


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Cells of HTML as a table."""
    above = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    below = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{above}</tr></thead>' if head else ''}<tbody>{below}</tbody></table>"


def _picture(file: Path, width: int | None = None) -> str:
    """A PNG file as an image within the page."""
    data = base64.b64encode(file.read_bytes()).decode()
    size = f' width="{width}" style="image-rendering:pixelated"' if width else ""
    return f'<img alt="{html.escape(file.stem)}" src="data:image/png;base64,{data}"{size}>'
