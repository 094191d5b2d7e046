"""What the rooms must agree on: plain objects and pure functions.

Belongs here: the request, the plan, the job, the model's specification, errors, and the arithmetic between them.
Never here: I/O of any kind, clocks, randomness, third-party libraries. Everything in this package can be tested in
microseconds and imported by any room.
"""
