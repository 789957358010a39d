"""Publish a trained model on the Hub: with a card that says what it is, how it was trained and how good it is.

    python publish.py --model runs/digits --hub_model_id user/digits --hub_private
    python publish.py --model runs/digits --metrics runs/digits_report --variants fp16 --output preview
    python publish.py --model user/digits --space user/digits-demo

The second command uploads nothing and shows what would be uploaded. The third makes a Space, in which visitors draw
from the published model. The token comes from `hf auth login` or HF_TOKEN.
"""

from collections.abc import Sequence

from cardiff.cli import one_sentence_errors, parse_options
from cardiff.hub.options import PublishOptions


@one_sentence_errors
def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(PublishOptions, argv, description=__doc__, flags=("hub_private",))
    from cardiff.hub.publish import publish
    from cardiff.hub.space import publish_space

    print(publish(options) if options.space is None else publish_space(options))


if __name__ == "__main__":
    main()
