"""A push as `publish.py` makes it, and the files of a pipeline that it leaves on the Hub."""

from cardiff.hub.options import PublishOptions
from cardiff.hub.publish import publish

PIPELINE_FILES = {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
PIPELINE_FILES |= {"scheduler/scheduler_config.json", "checksums.json", "README.md", "schedule.png", ".gitattributes"}


def push(folder, repository="user/model", **more):
    return publish(PublishOptions(model=str(folder), hub_model_id=repository, **more))
