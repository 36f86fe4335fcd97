"""The settings: read, checked, announced."""
