"""From facts of models and a machine to how to serve them: pure decisions, with every term of the memory account."""
