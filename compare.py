"""Compare trained models: the same seeds, noise, classes and reference, over guidance scales, solvers and steps.

python compare.py runs/conditional runs/unconditional --network pixels --output runs/comparison
python compare.py conditional=runs/c0 conditional=runs/c1 unconditional=runs/u0 unconditional=runs/u1 \\
  --guidance_scale 0,1,2,4 --solver dpm,ddpm --steps 10,50 --num_images 4000 --halving_rounds 2 \\
  --output runs/comparison
"""

from collections.abc import Sequence

from cardiff.cli import one_sentence_errors, parse_options
from cardiff.evaluation.options import CompareOptions


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(CompareOptions, argv, description=__doc__, positional="runs", flags=("allow_code",))
    from cardiff.distributed import print_once
    from cardiff.evaluation.reports.comparison import run

    print_once(f"Look at {run(options) / 'report.html'}")


if __name__ == "__main__":
    main()
