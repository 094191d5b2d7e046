"""How fast a model is on this device, beside plain diffusers on the same weights and beside what the device can do.

Belongs here: what `vitascope bench` measures. Never here: how it is shown, and anything that a video is made with.
"""
