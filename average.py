"""Make models with weight averages of any width from the snapshots of a run, without training again.

    python train_conditional.py --config configs/digits_16_conditional.yaml --train.ema_widths '[0.05,0.10]' \\
      --output_dir runs/digits
    python average.py --model runs/digits --width 0.05,0.08,0.12,0.2
    python evaluate.py --model runs/digits@0.08 --network pixels --output runs/digits_0.08

A width is the standard deviation of the average over the length of the run: at 0.10, most of the weight is on the last
fifth. Wherever a model is named, RUN@WIDTH makes the average and takes it.
"""

from collections.abc import Sequence

from cardiff.cli import one_sentence_errors, parse_options
from cardiff.hub.options import AverageOptions


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(AverageOptions, argv, description=__doc__)
    from cardiff.hub.averages import run

    run(options)


if __name__ == "__main__":
    main()
