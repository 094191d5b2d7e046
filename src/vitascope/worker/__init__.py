"""The process that owns a device, and the engine process it drives.

`parent` claims, renews leases, kills, stores and finishes; it never imports torch, so that no denoising step can starve a
heartbeat. `child` runs the engine and writes files. They talk over a pipe in JSON (`messages`). `produce` is what both the
child and the command line do to make one file.
Never here: SQL, HTTP, the choice of which job comes next (the store's claim asks the domain).
"""
