"""From one description of a site (nodes, models, providers) to Kubernetes, Docker Compose and Ray Serve.

Nothing here runs a cluster of its own: it plans with ``planning/`` and writes what existing engines read.
"""
