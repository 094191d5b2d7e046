"""One clip by a whole command: `vitascope generate` against a script of plain diffusers with the same weights, seed and steps."""
