"""Train an unconditional diffusion model, to compare a class-conditional one with.

    accelerate launch train_unconditional.py --config configs/digits_16_unconditional.yaml --output_dir runs/digits_u

Run the same command again to resume an interrupted run. Any option can follow the config: --train.batch_size 256.
With --push_to_hub --hub_model_id user/name the model is published while it trains.
"""

from cardiff.cli import one_sentence_errors
from cardiff.config.run import parse_run


@one_sentence_errors
def main(argv: list[str] | None = None) -> bool:
    config = parse_run(argv, kind="unconditional", description=__doc__)
    from cardiff.training.build import build  # after parsing the options, since --help needs no torch

    trainer = build(config)  # data, schedule, network, loss, trainer, callbacks: cardiff/training/build.py
    while not trainer.done:
        trainer.step()  # Algorithm 1 of DDPM, by DenoisingLoss: cardiff/diffusion/loss.py
        trainer.run_callbacks()  # log, checkpoint, sample grid, evaluation, push: cardiff/training/callbacks.py
    return trainer.finish()


if __name__ == "__main__":
    main()
