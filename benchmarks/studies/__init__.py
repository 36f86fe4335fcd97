"""Single measurements, each with its own command."""
