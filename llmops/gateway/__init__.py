"""One OpenAI- and Anthropic-compatible endpoint before local servers and cloud APIs.

The way of a request is ``request.py``; read that first.
"""
