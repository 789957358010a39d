"""docs/cars.md shows what was measured."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.cars import table
from benchmarks.cars_recall import table as recall_table
from benchmarks.cars_tables import rows_of

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/cars.md").read_text()
TABLES = sorted(file for file in ROOT.glob("docs/cars/*.md") if file.stem != "report")
COMPARISON = json.loads((ROOT / "docs/cars/comparison.json").read_text())
KEYS = ("fid", "kid", "precision", "recall")


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.stem)
def test_tables_are_those_that_were_written(file):
    assert file.read_text().strip() in PAGE


@pytest.mark.parametrize("file", [file for file in TABLES if file.with_suffix(".json").exists()], ids=lambda f: f.stem)
def test_tables_show_their_records(file):
    record = json.loads(file.with_suffix(".json").read_text())
    shown = recall_table(record["rows"]) if file.stem == "recall" else table(rows_of(record))
    assert file.read_text() == shown


@pytest.mark.parametrize("setting", COMPARISON["settings"], ids=lambda s: f"{s['run']} {s['guidance_scale']}")
def test_the_comparison_is_the_recorded_one(setting):
    w = setting["guidance_scale"]
    name = "unconditional twin" if setting["run"] == "unconditional" else f"conditional, w = {w:g}"
    section = PAGE[PAGE.index("## 3. ") : PAGE.index("### In the eyes")]
    (row,) = re.findall(rf"^\| {name}(?: \(null class\))? \|(.*)\|$", section, re.MULTILINE)
    cells = [cell.strip() for cell in row.split("|")]
    for key, cell in zip(KEYS, cells):
        shown = [float(number) for number in re.findall(r"[\d.]+", cell)]
        estimate = setting["metrics"][key]
        tolerance = 0.5 if key == "fid" else 0.0006
        assert shown == pytest.approx([estimate["value"], estimate["low"], estimate["high"]], abs=tolerance)
    if setting["run"] == "conditional":
        assert float(re.match(r"[\d.]+", cells[4])[0]) == pytest.approx(
            100 * setting["metrics"]["accuracy"]["value"], abs=0.06
        )
