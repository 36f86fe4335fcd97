"""The sample API behind the gateway: a plain Flask app that knows nothing of tokens."""
