"""Server programs that llmops launches as child processes. Nothing here is imported by the launching side."""
