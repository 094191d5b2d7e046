"""How quick does a server stay under many clients? `python -m bench.load`; what is measured and how is in `__main__`."""
