"""The command line: one file a verb. A command builds a typed spec, calls one function and emits the report."""
