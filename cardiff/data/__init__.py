"""Images for training: sources, decoding, the decoded store shared by all processes, and streaming."""

from cardiff.data.decode import UnreadableImage, decode_image
from cardiff.data.part import random_part
from cardiff.data.sources import load_source, source_fingerprint
from cardiff.data.stanford_cars import load_stanford_cars
from cardiff.data.store import ImageStore, cache_root, open_store
from cardiff.data.stream import ImageStream

__all__ = [
    "ImageStore",
    "ImageStream",
    "UnreadableImage",
    "cache_root",
    "decode_image",
    "load_source",
    "load_stanford_cars",
    "open_store",
    "random_part",
    "source_fingerprint",
]
