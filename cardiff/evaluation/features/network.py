"""A network that turns images into features, and into logits if it has a head; its classes by name."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from cardiff.devices import float32_products
from cardiff.errors import UserError

Output = tuple[torch.Tensor, torch.Tensor | None]
"""Features (B, D), and logits (B, K) of a network with a head."""


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A network with its preprocessing: uint8 images in, features out."""

    name: str
    """What reports call it."""
    distance: str
    """What reports call the Fréchet distance in its features."""
    record: dict
    """Kind, weights by SHA-256 and preprocessing: all that decides the features, in JSON's types."""
    id2label: dict[int, str] | None
    """Class names by index of the logits; None without a head, or if its classes have no names."""
    device: torch.device
    forward: Callable[[torch.Tensor], Output] = field(repr=False)
    """uint8 images (B, C, H, W) on the device to features and logits."""
    unnamed_classes: bool = False
    """Whether there are logits although the classes have no names."""

    @property
    def has_head(self) -> bool:
        """Whether there are logits."""
        return self.id2label is not None or self.unnamed_classes

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> Output:
        """Compute features and logits.

        Grey images are repeated to three channels for networks of colour images, which is all but `pixels` and the
        classifiers of this project.

        Args:
            images: uint8 (B, C, H, W).

        Returns:
            Features float32 (B, D), and logits float32 (B, K) or None, on the network's device.

        Raises:
            UserError: The network does not take images of this size.
        """
        assert images.dtype == torch.uint8 and images.ndim == 4, f"uint8 (B, C, H, W), not {images.dtype}"
        # Whatever a training run has set: autocast, TF32 products, and algorithms that are chosen by their speed.
        with (
            torch.autocast(self.device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
            float32_products(tf32=False),
        ):
            features, logits = self.forward(images.to(self.device))
        return features.float(), None if logits is None else logits.float()


def class_columns(network: FeatureNetwork, class_names: Sequence[str]) -> list[int]:
    """Index of the logit of each class of the data, by name.

    Case and surrounding spaces are ignored where no name is exactly the same. The network may have more classes than
    the data.

    Raises:
        UserError: The network has no named classes, or a class of the data is missing or ambiguous.
    """
    if network.id2label is None:
        raise UserError(f"{network.name} has no named classes: give a classifier.")
    exact, alike = defaultdict(list), defaultdict(list)
    for index, name in network.id2label.items():
        exact[name].append(index)
        alike[name.strip().lower()].append(index)
    found = []
    for label, name in enumerate(class_names):
        matches = exact.get(name) or alike.get(name.strip().lower(), [])
        if len(matches) != 1:
            problem = f"has {len(matches) or 'no'} class{'es' * (len(matches) > 1)} called {name!r}"
            if not matches and len(network.id2label) == len(class_names):
                problem += f", class {label} of the data (its own class {label} is {network.id2label[label]!r})"
            raise UserError(f"{network.name} {problem}: give a classifier that was trained on the data's classes.")
        found += matches
    return found


def rgb(images: torch.Tensor) -> torch.Tensor:
    """Grey images (B, 1, H, W) repeated to (B, 3, H, W); colour images as they are."""
    return images.expand(-1, 3, -1, -1)


def pooled(features: torch.Tensor) -> torch.Tensor:
    """(B, D, h, w) averaged over space, the first token of (B, L, D), and (B, D) as it is."""
    if features.ndim == 3:
        return features[:, 0]
    return features.mean((2, 3)) if features.ndim == 4 else features


def with_features(network: nn.Module, head: nn.Module) -> Callable[..., Output]:
    """The network as a function that returns the input of its head, pooled, and the logits."""
    seen: dict[str, torch.Tensor] = {}
    head.register_forward_pre_hook(lambda module, inputs: seen.update(features=inputs[0]))

    def run(*inputs: torch.Tensor | int, **named: torch.Tensor) -> Output:
        output = network(*inputs, **named)
        logits = output if isinstance(output, torch.Tensor) else output.logits
        return pooled(seen.pop("features")), logits

    return run
