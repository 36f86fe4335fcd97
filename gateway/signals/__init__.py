"""What identity providers and other services say, and ask: logouts, revocations, events, introspection."""
