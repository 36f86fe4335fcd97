"""The gateway beside what people use today: CPU per request, throughput and latency, in one interleaved run."""
