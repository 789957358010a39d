"""Diffusers pipelines and models, each one self-contained file that a published checkpoint can carry."""

from pipelines.noisy_classifier import NoisyClassifier
from pipelines.pipeline_class_conditional import ArgumentError, ClassConditionalPipeline, NonFiniteImages

__all__ = ["ArgumentError", "ClassConditionalPipeline", "NoisyClassifier", "NonFiniteImages"]
