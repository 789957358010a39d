"""Compare noise schedules on a data set: measure, rank, draw and explain them, and compute the best one for it.

python analyze_schedules.py                                    # the shipped digits, all schedules, runs/analysis
python analyze_schedules.py --config configs/cifar10_32_conditional.yaml --schedules linear,cosine,spectral
python analyze_schedules.py --data.path my_images --data.resolution 64 --output runs/mine_analysis
"""

import os
from collections.abc import Sequence

from cardiff.analysis.options import parse_analysis
from cardiff.cli import one_sentence_errors


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> None:
    # Before numpy is imported: the matrices are so small that several threads would be slower than one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    asked = parse_analysis(argv, description=__doc__)
    from cardiff.analysis.analyze import run

    print(f"Look at {run(*asked) / 'report.md'}")


if __name__ == "__main__":
    main()
