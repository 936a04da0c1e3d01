"""Facts of models from their configuration and headers, where models come from, and conversion between formats."""

from llmops.checkpoint.facts import ModelFacts
from llmops.checkpoint.reader import read_model

__all__ = ["ModelFacts", "read_model"]
