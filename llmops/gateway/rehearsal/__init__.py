"""A gateway config tried out before stand-ins of its providers: no key, no model, no cost."""
