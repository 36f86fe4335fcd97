"""One request out, one answer back."""
