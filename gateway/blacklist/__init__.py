"""The blacklist: its rules, its resource, its stores."""
