"""Vitascope: a self-hosted video generation server that speaks the API dialects of existing clients."""

__version__ = "0.1.0.dev0"
