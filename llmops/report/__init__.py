"""One neutral document, rendered for a terminal, Markdown, HTML; findings as JUnit, SARIF, GitHub annotations."""
