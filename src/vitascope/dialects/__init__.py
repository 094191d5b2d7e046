"""Vendors' APIs: each module translates one vendor's words into the service's and back.

Belongs here: routes, field names, status names, error phrases, documents of the API. Never here: decisions about jobs or
videos; a dialect calls the service and knows no other dialect. What all edges share is in `_http`.
"""
