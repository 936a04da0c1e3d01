"""Programs that run in an engine's own interpreter: a JSON job in, JSON lines out.

``launch.py`` loads this directory as a package of its own, so these modules use only the standard library, the engine
and each other (by relative import), never the rest of llmops, which the engine's environment does not have.
"""
