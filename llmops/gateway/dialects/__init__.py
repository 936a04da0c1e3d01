"""What clients and servers speak: pure functions from bytes and dicts to neutral values and back. Nothing here does I/O."""
