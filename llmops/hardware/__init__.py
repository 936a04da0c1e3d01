"""Facts of a machine: processors, memory, GPUs and their links; detected, from a file, or on paper."""

from llmops.hardware.detect import detect
from llmops.hardware.host import Gpu, Host

__all__ = ["Gpu", "Host", "detect"]
