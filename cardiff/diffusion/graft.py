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
from cardiff.hub.source import Source

Weights = dict[str, torch.Tensor]
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
    weights, own = source.tensors(), network.state_dict()
    if isinstance(network, UNet2DModel):
        notes = [_fit_classes(weights, own, source.class_names, class_names), _fit_channels(weights, own)]
    else:
        notes = [_fit_head(weights, own, source.class_names, class_names)]
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
    return [note for note in notes if note]


def _fit_classes(weights: Weights, own: Weights, before: Sequence[str], after: Sequence[str]) -> str:
    """Rows of classes with the same name; the null row for other classes; zeros where the source has no classes."""
    table = weights.pop(CLASSES, None)
    if CLASSES not in own:
        if table is None:
            return ""
        weights[TIME_BIAS] = weights[TIME_BIAS] + table[-1]
        return "Its null class is what goes on; the other classes are dropped."
    if table is None:
        weights[CLASSES] = torch.zeros_like(own[CLASSES])
        return f"Each of the {len(after)} classes starts as the unconditional network."
    null = len(before)
    places = {name: row for row, name in enumerate(before)}
    weights[CLASSES] = table[[*(places.get(name, null) for name in after), null]]
    kept = sum(name in places for name in after)
    rest = "" if kept == len(after) else "; the others start from its null class"
    return f"{kept} of {len(after)} classes keep the embedding of the same name{rest}."


def _fit_channels(weights: Weights, own: Weights) -> str:
    """The first and the last convolution for another number of channels.

    Grey to RGB: each channel has a third of the weight in, so that an image whose channels are equal is seen as its
    grey original; and the same weight out. RGB to grey: the sum of the weights in, with the same effect, and the mean
    of those out. Noise is not seen as before, since that of three channels is not equal: training has to repair it.
    """
    before, after = weights[FIRST].shape[1], own[FIRST].shape[1]
    if before == after:
        return ""
    if after > before:
        weights[FIRST] = weights[FIRST].repeat(1, after, 1, 1) / after
        for name in LAST:
            weights[name] = weights[name].repeat(after, *[1] * (weights[name].dim() - 1))
    else:
        weights[FIRST] = weights[FIRST].sum(1, keepdim=True)
        for name in LAST:
            weights[name] = weights[name].mean(0, keepdim=True)
    return f"The first and last convolution are fitted from {before} channels to {after}."


def _fit_head(weights: Weights, own: Weights, before: Sequence[str], after: Sequence[str]) -> str:
    """Of a classifier the rows of classes with the same name; the others keep the random weights of a new one."""
    places = {name: row for row, name in enumerate(before)}
    for part in HEAD:
        if part in weights:
            rows = [weights[part][places[n]] if n in places else own[part][i] for i, n in enumerate(after)]
            weights[part] = torch.stack(rows)
    return f"{sum(n in places for n in after)} of {len(after)} classes keep their row; the others start at random."
