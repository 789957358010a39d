"""The full comparison of a conditional and an unconditional model of the digits, from training to the report.

python benchmarks/digits_comparison.py --output runs/digits_comparison --report docs/evaluation/digits

Trains both at equal cost on three quarters of the digits, and two classifiers: one in whose features images are
compared, and one that judges. Then compare.py does the rest, against the quarter that nothing was trained on. About a
quarter of an hour on two cores; interrupted, the same command goes on.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

import compare
import train_classifier
import train_conditional
import train_unconditional
from benchmarks.guidance import ROOT, halves

REPORT = ("report.md", "comparison.json", "curves.png", "steps.png", "grid.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/digits_comparison"))
    parser.add_argument("--report", type=Path, help="also copy the report there, without images and HTML")
    parser.add_argument("--seeds", default="0", help="training seeds (default: 0)")
    parser.add_argument("--guidance_scale", default="0,1,1.5,2,3")
    parser.add_argument("--solver", default="dpm,ddpm")
    parser.add_argument("--steps", default="10,20")
    parser.add_argument("--halving_rounds", default="2")
    options = parser.parse_args()
    started = time.monotonic()

    # Train: the twins for each seed, and the two classifiers.
    folder = options.output
    files = halves(folder)
    data = ["--data.data_files", str(files["train"]), "--train.trackers", "[]"]
    runs = []
    for kind, script in (("conditional", train_conditional), ("unconditional", train_unconditional)):
        for seed in options.seeds.split(","):
            run = folder / f"{kind}_{seed}"
            config = ROOT / f"configs/digits_16_{kind}.yaml"
            script.main(["--config", str(config), "--output_dir", str(run), *data, "--train.seed", seed])
            runs.append(f"{kind}={run}")
    for seed, name in enumerate(("reader", "judge")):
        config = ROOT / "configs/digits_16_classifier.yaml"
        arguments = ["--config", str(config), "--output_dir", str(folder / name), *data, "--train.seed", str(seed)]
        train_classifier.main([*arguments, "--train.validation_fraction", "0"])

    # Compare.
    section = yaml.safe_load((folder / "conditional_0/config.yaml").read_text())["data"]
    held_out = folder / "held_out.yaml"
    held_out.write_text(yaml.safe_dump({"data": {**section, "data_files": str(files["test"])}}))
    swept = {name: getattr(options, name) for name in ("guidance_scale", "solver", "steps", "halving_rounds")}
    given = {"network": folder / "reader", "accuracy_classifier": folder / "judge", "validation_data": held_out}
    given |= swept
    given |= {"metrics": "fid,fid_infinity,kid,prdc,accuracy,diversity,memorisation"}
    output = folder / ("report" if options.seeds == "0" else f"report_{options.seeds.replace(',', '_')}")
    compare.main([*runs, "--output", str(output), *(p for name, v in given.items() for p in (f"--{name}", str(v)))])
    if options.report is not None:
        options.report.mkdir(parents=True, exist_ok=True)
        for name in REPORT:
            shutil.copyfile(output / name, options.report / name)
    print(f"Done in {time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()
