"""Requests that nobody would think of, made from the server's own description of itself, `/openapi.json`.

Every answer must be one that the description promises: no status of 500 or above, no undocumented status or content type, no
body that its schema does not allow. Schemathesis makes the requests; `hooks` gives it ids of things that there are.
"""
