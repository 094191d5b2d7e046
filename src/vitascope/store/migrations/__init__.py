"""How the tables came to be, revision by revision. A released revision is never edited."""
