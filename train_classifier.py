"""Train a classifier of noised images, whose gradient can guide a diffusion model to a class: cross-entropy at all
noise levels of a schedule, which must be that of the diffusion model.

    accelerate launch train_classifier.py --config configs/digits_16_classifier.yaml --output_dir runs/classifier

Run the same command again to resume an interrupted run. Any option can follow the config: --train.batch_size 256.
With --push_to_hub --hub_model_id user/name the model is published while it trains.
"""

from cardiff.cli import one_sentence_errors
from cardiff.config.run import parse_run


@one_sentence_errors
def main(argv: list[str] | None = None) -> bool:
    config = parse_run(argv, kind="classifier", description=__doc__)
    from cardiff.training.build import build  # after parsing the options, since --help needs no torch

    trainer = build(config)  # data, schedule, network, loss, trainer, callbacks: cardiff/training/build.py
    while not trainer.done:
        trainer.step()  # minimises ClassificationLoss: cardiff/diffusion/loss.py
        trainer.run_callbacks()  # log, checkpoint, report, push: cardiff/training/callbacks.py
    return trainer.finish()


if __name__ == "__main__":
    main()
