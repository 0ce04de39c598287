"""Benchmarks that compare the product with a minimal server: `python -m tests.benchmarks`."""
