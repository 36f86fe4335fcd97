"""Single questions, each with its own command."""
