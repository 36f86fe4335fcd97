"""All that decides on a request or changes it."""
