"""The state of this machine as far as it makes engines fail: checks with a time limit each, saved and read again."""

from llmops.diagnosis.machine.run import examine
from llmops.diagnosis.machine.state import Check, MachineReport, read_state

__all__ = ["Check", "MachineReport", "examine", "read_state"]
