"""Proof of the generic family: each diffusers pipeline class, at a few channels, through the real engine.

Belongs here: what is checked of a class and a mode (`checks`), and the table. Never here: how a class's tiny checkpoint is built
(that is `tests.tiny`'s), or what only one class does.
"""
