"""Delivery of webhooks to a receiver that is away, by senders that die; on a clock that is turned."""
