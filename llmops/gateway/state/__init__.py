"""State that processes share: rate limits of the workers of one gateway, in a file that all of them map."""
