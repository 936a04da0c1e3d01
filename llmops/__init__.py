"""From a checkpoint to a measured, cost-controlled LLM endpoint, and why it failed when it fails."""

__version__ = "0.1.0"
