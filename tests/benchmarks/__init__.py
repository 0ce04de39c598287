"""What the product costs, beside what it can't cost less than: `python -m tests.benchmarks`."""
