"""Answers kept: exactly equal requests of one tenant get the answer again, as a whole or as a stream."""
