"""``llmops run RECIPE``: chains the verbs, keeps what can be reused, and writes one report of the whole."""
