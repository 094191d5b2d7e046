"""What provenance and watermarks cost, and whether every changed byte of a file is found."""
