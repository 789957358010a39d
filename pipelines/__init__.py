"""Diffusers pipelines, each one self-contained file that a published checkpoint can carry."""

from pipelines.pipeline_class_conditional import ClassConditionalPipeline

__all__ = ["ClassConditionalPipeline"]
