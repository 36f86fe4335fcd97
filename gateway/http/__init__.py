"""The words that every room shares: fields, targets, refusals, answers, strict JSON, bounded caches."""
