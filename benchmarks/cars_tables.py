"""Keeps a comparison of compare.py for docs/cars.md: its record, and a table of it.

    python benchmarks/cars_tables.py runs/cars56/schedules --output docs/cars/schedules

writes docs/cars/schedules.json and docs/cars/schedules.md, which the page includes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.cars import table
from cardiff.files import write_text


def rows_of(comparison: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A row for each setting, named by what differs, and one for the real pictures that were held out."""
    settings = comparison["settings"]
    several = {key for key in ("run", "solver", "steps") if len({setting[key] for setting in settings}) > 1}
    guided = len({setting["guidance_scale"] for setting in settings} - {None}) > 1
    rows = {}
    for setting in settings:
        name = [setting["run"]] if "run" in several else []
        if guided and setting["guidance_scale"] is not None:
            name.append(f"w = {setting['guidance_scale']:g}")
        name += [setting["solver"]] if "solver" in several else []
        name += [f"{setting['steps']} steps"] if "steps" in several else []
        rows[", ".join(name)] = setting
    if comparison["held_out"]:
        name = f"{comparison['held_out_images']:,} real pictures, not trained on"
        rows[name] = {"metrics": comparison["held_out"], "evaluations": {}}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="folder of compare.py")
    parser.add_argument("--output", type=Path, required=True, help="the two files, without their endings")
    options = parser.parse_args()
    text = (options.comparison / "comparison.json").read_text()
    write_text(options.output.with_suffix(".json"), text)
    write_text(options.output.with_suffix(".md"), table(rows_of(json.loads(text))))


if __name__ == "__main__":
    main()
