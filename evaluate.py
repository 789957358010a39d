"""Evaluate a model or a folder of images against real images: distances, classes, memorisation, all with intervals.

python evaluate.py --model runs/digits --network pixels --solver ddpm --steps 20 --output runs/digits_report
python evaluate.py --images samples/cifar10 --reference configs/cifar10_32_conditional.yaml --metrics fid,kid,prdc \\
  --network_weights inception.pt --output runs/cifar10_report
accelerate launch evaluate.py --model runs/cars --num_images 8144 --validation_data test --metrics all \\
  --accuracy_classifier runs/judge --network facebook/dinov2-base --output runs/cars_report
"""

from collections.abc import Sequence

from cardiff.cli import one_sentence_errors, parse_options
from cardiff.evaluation.options import EvaluateOptions


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(EvaluateOptions, argv, description=__doc__, flags=("allow_code",))
    from cardiff.distributed import print_once
    from cardiff.evaluation.evaluate import run

    print_once(f"Look at {run(options) / 'report.html'}")


if __name__ == "__main__":
    main()
