"""Show models in a browser: draw, watch the steps, compare settings, and see what noise schedules do.

python app.py                                  # the cars that come with the project, on http://127.0.0.1:7860
python app.py --model runs/mine,user/model --port 8000
"""

from collections.abc import Sequence

from cardiff.app.options import AppOptions
from cardiff.cli import one_sentence_errors, parse_options


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(AppOptions, argv, description=__doc__)
    from cardiff.app.build import serve

    serve(options)


if __name__ == "__main__":
    main()
