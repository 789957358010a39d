"""Diffusers pipelines and models, each one self-contained file that a published checkpoint can carry."""

from .noisy_classifier import NoisyClassifier
from .pipeline_class_conditional import ArgumentError, ClassConditionalPipeline, NonFiniteImages

__all__ = ["ArgumentError", "ClassConditionalPipeline", "NoisyClassifier", "NonFiniteImages"]
