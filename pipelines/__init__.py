"""Diffusers pipelines and models, each one self-contained file that a published checkpoint can carry."""

from pipelines.noisy_classifier import NoisyClassifier
from pipelines.pipeline_class_conditional import ClassConditionalPipeline, NonFiniteImages

__all__ = ["ClassConditionalPipeline", "NoisyClassifier", "NonFiniteImages"]
