"""Files that were damaged on purpose, many of them: nothing may crash, hang, or tell more than it should."""
