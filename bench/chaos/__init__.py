"""Does an acknowledged job survive everything? `python -m bench.chaos` kills, `python -m bench.chaos.cuts` cuts the power."""
