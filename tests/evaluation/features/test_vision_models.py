"""Models of transformers: the features are those of the model and of its own image processor."""

import pytest
import torch
from PIL import Image

from tests.support.tiny_networks import LABELS, MODELS, images, load

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:FutureWarning")


def expected(name: str, model, pixel_values) -> torch.Tensor:
    """Features by the model's own means."""
    with torch.no_grad():
        if name == "vit-without-pooler":
            return model(pixel_values).last_hidden_state[:, 0]
        if name == "dinov2-classifier":
            tokens = model.dinov2(pixel_values).last_hidden_state
            return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
        base = model.resnet if name == "resnet-classifier" else model
        return base(pixel_values).pooler_output.flatten(1)


@pytest.mark.parametrize("name", MODELS)
def test_transformers_see_what_their_image_processor_makes_of_a_picture(folder, name):
    """Of each picture alone, through PIL."""
    network, batch = load(folder, name), images(size=40)
    model, processor = MODELS[name]()
    model = type(model).from_pretrained(folder / name)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in batch]
    pixel_values = processor(images=pictures, return_tensors="pt")["pixel_values"]
    features, logits = network(batch)
    torch.testing.assert_close(features, expected(name, model, pixel_values), rtol=1e-4, atol=1e-5)
    if name.endswith("classifier"):
        with torch.no_grad():
            torch.testing.assert_close(logits, model(pixel_values).logits, rtol=1e-4, atol=1e-5)
        assert network.id2label == LABELS
