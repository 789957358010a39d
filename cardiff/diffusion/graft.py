"""A network that starts from the weights of another: at step 0 it is that network, whatever its classes.

UNet2DModel adds a class's embedding to that of the timestep. So rows of zeros make an unconditional network
conditional and leave every output as it is, to the bit; and the null row, added to the bias of the timestep's
embedding, makes the null class of a conditional network unconditional, up to rounding. Images of another number of
channels cannot be left as they are: see `_fit_channels`.
"""

from collections.abc import Sequence

import torch
from diffusers import ModelMixin, UNet2DModel

from cardiff.errors import UserError
from cardiff.hub.source import Source, rows_of

CLASSES, TIME_BIAS = "class_embedding.weight", "time_embedding.linear_2.bias"
FIRST, LAST = "conv_in.weight", ("conv_out.weight", "conv_out.bias")
HEAD = ("head.weight", "head.bias")


def graft(network: ModelMixin, source: Source, class_names: Sequence[str]) -> list[str]:
    """Replace a network's weights by those of a source, and say in sentences what had to be fitted.

    Args:
        network: The network of the run; what the source has no weights for stays as it is.
        source: The model to start from.
        class_names: Of the run; none for an unconditional network.

    Raises:
        UserError: The weights are damaged, or not those of the source's network.
    """
    weights = source.tensors()
    own = network.state_dict()
    notes: list[str] = []
    if isinstance(network, UNet2DModel):
        _fit_classes(weights, own, source, class_names, notes)
        _fit_channels(weights, own, notes)
    else:
        _fit_head(weights, own, source, class_names, notes)
    problems = sorted(own.keys() ^ weights.keys()) or [
        name for name in sorted(own) if own[name].shape != weights[name].shape
    ]
    if problems:
        raise UserError(
            f"--init_from {source.name}: its weights are not those of the network that its config.json describes, or "
            f"not for images of this size ({', '.join(problems[:3])}): copy or download it again, or start from "
            "another model."
        )
    network.load_state_dict(weights)
    return notes


def _fit_classes(
    weights: dict[str, torch.Tensor],
    own: dict[str, torch.Tensor],
    source: Source,
    class_names: Sequence[str],
    notes: list[str],
) -> None:
    """Rows of classes with the same name; the null row for other classes; zeros where the source has no classes."""
    table = weights.pop(CLASSES, None)
    if CLASSES not in own:
        if table is not None:
            weights[TIME_BIAS] = weights[TIME_BIAS] + table[-1]
            notes.append("Its null class is what goes on; the other classes are dropped.")
        return
    if table is None:
        weights[CLASSES] = torch.zeros_like(own[CLASSES])
        notes.append(f"Each of the {len(class_names)} classes starts as the unconditional network.")
        return
    rows = rows_of(class_names, source.class_names)
    weights[CLASSES] = table[rows]
    kept = sum(name in source.class_names for name in class_names)
    rest = "" if kept == len(class_names) else "; the others start from its null class"
    notes.append(f"{kept} of {len(class_names)} classes keep the embedding of the same name{rest}.")


def _fit_channels(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor], notes: list[str]) -> None:
    """The first and the last convolution for another number of channels.

    Grey to RGB: each channel has a third of the weight in, so that an image whose channels are equal is seen as its
    grey original; and the same weight out. RGB to grey: the sum of the weights in, with the same effect, and the mean
    of those out. Noise is not seen as before, since that of three channels is not equal: training has to repair it.
    """
    before, after = weights[FIRST].shape[1], own[FIRST].shape[1]
    if before == after:
        return
    if after > before:
        weights[FIRST] = weights[FIRST].repeat(1, after, 1, 1) / after
        for name in LAST:
            weights[name] = weights[name].repeat(after, *[1] * (weights[name].dim() - 1))
    else:
        weights[FIRST] = weights[FIRST].sum(1, keepdim=True)
        for name in LAST:
            weights[name] = weights[name].mean(0, keepdim=True)
    notes.append(f"The first and last convolution are fitted from {before} channels to {after}.")


def _fit_head(
    weights: dict[str, torch.Tensor],
    own: dict[str, torch.Tensor],
    source: Source,
    class_names: Sequence[str],
    notes: list[str],
) -> None:
    """Of a classifier the rows of classes with the same name; the others keep the random weights of a new one."""
    places = {name: row for row, name in enumerate(source.class_names)}
    kept = [name for name in class_names if name in places]
    for part in HEAD:
        if part in weights:
            rows = [weights[part][places[n]] if n in places else own[part][i] for i, n in enumerate(class_names)]
            weights[part] = torch.stack(rows)
    notes.append(f"{len(kept)} of {len(class_names)} classes keep their row; the others start at random.")
