"""Draw images from a trained model: as single files with a manifest, a labelled grid or an animation.

python sample.py --model runs/digits --labels 0,3,seven --guidance_scale 2 --grid grid.png
python sample.py --labels beetle --animation beetle.gif
accelerate launch sample.py --model runs/digits --num_images 5000 --output samples/
"""

from collections.abc import Sequence

from cardiff.cli import one_sentence_errors, parse_options
from cardiff.sampling.options import SampleOptions


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(SampleOptions, argv, description=__doc__, flags=("allow_code",))
    from cardiff.distributed import print_once
    from cardiff.sampling.sample import run

    print_once(f"Wrote {run(options)}")


if __name__ == "__main__":
    main()
