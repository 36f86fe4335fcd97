"""Who is calling: from the Authorization field to a verified token."""
