"""Train a class-conditional diffusion model: labels are dropped at random, so that one UNet learns both the
conditional and the unconditional distribution and can be sampled with classifier-free guidance.

    accelerate launch train_conditional.py --config configs/digits_16_conditional.yaml --output_dir runs/digits

Run the same command again to resume an interrupted run. Any option can follow the config: --train.batch_size 256.
With --push_to_hub --hub_model_id user/name the model is published while it trains.
"""

from cardiff.cli import one_sentence_errors
from cardiff.config.run import parse_run


@one_sentence_errors
def main(argv: list[str] | None = None) -> bool:
    config = parse_run(argv, kind="conditional", description=__doc__)
    from cardiff.training.build import build  # after parsing the options, since --help needs no torch

    trainer = build(config)  # data, schedule, network, loss, trainer, callbacks: cardiff/training/build.py
    while not trainer.done:
        trainer.step()  # Algorithm 1 of DDPM, by DenoisingLoss: cardiff/diffusion/loss.py
        trainer.run_callbacks()  # log, checkpoint, sample grid, evaluation, push: cardiff/training/callbacks.py
    return trainer.finish()


if __name__ == "__main__":
    main()
