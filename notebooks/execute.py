"""Run the notebooks from the first cell to the last, and store them with their outputs.

    python notebooks/execute.py            # both, in place
    python notebooks/execute.py quickstart

Stored is what a reader needs: no progress bars, no times, no texts beside a picture or a table, and pictures in 256
colours, so that a notebook stays below a megabyte. It needs the extra `develop`.
"""

import base64
import os
import re
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
BAR = re.compile(r"[^\n]*(?:\d%\||\d(?:img|step|it)/s|TqdmWarning|autonotebook)[^\n]*")
"""A progress bar, and tqdm's warning that it has no widget to draw one in."""


def execute(path: Path, folder: Path) -> NotebookNode:
    """Run a notebook in a folder, with the package of this checkout, and return it with its outputs.

    Raises:
        CellExecutionError: A cell raises an exception.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources=resources)
    client.store_widget_state = client.record_timing = False
    search = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    backend = "module://matplotlib_inline.backend_inline"
    client.execute(env={**os.environ, "PYTHONPATH": search, "MPLBACKEND": backend})
    return notebook


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """The notebook with the outputs that are worth storing.

    Raises:
        ValueError: A cell has written a warning.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _worth_storing(cell.outputs)
        cell.metadata = nbformat.from_dict({})
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def _worth_storing(outputs: list[NotebookNode]) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in outputs:
        data = output.get("data", {})
        if output.output_type == "stream" and output.name == "stderr":
            left = BAR.sub("", output.text.replace("\r", "\n")).strip()
            if left:
                raise ValueError(f"A cell has written to stderr: {left[:500]}")
        elif output.output_type == "stream" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
        elif not any("widget" in kind for kind in data):
            if data.keys() & {"image/png", "text/html", "text/markdown"}:
                data.pop("text/plain", None)
            if "image/png" in data:
                data["image/png"] = _in_256_colours(data["image/png"])
                output.metadata = nbformat.from_dict({})
            kept.append(output)
    return kept


def _in_256_colours(encoded: str) -> str:
    """A PNG picture in base64, a third of the size."""
    picture = Image.open(BytesIO(base64.b64decode(encoded))).convert("RGB")
    file = BytesIO()
    fewer = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    fewer.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(names: list[str]) -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                notebook = cleaned(execute(path, Path(folder)))
            nbformat.write(notebook, path)
            print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
