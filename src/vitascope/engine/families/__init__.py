"""One module per model family; each turns a plan into a clip over a slot.

A family never knows which request comes next, where weights come from, or what becomes of the frames.
"""
