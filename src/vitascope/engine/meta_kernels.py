"""What torch's operators answer where tensors have no numbers, only shapes: imported by what may ask for it.

torch keeps a part of these kernels in Python, with its formulas for compilers, and imports all of it whenever it is imported itself: a
quarter of the time (docs/experiments.md). Compilers need it, and models that are built without numbers before their files are read,
where more is asked of these than to be made: `loading` knows of which it is not.
"""

from __future__ import annotations

from .postponed import META_KERNELS, import_now, is_put_off, when_imported


def import_with_users() -> None:
    """Have them imported with packages that may ask any of them. To be called once torch is imported."""
    if not is_put_off(META_KERNELS):
        return
    _let_make_generators()
    for root in ("transformers", "peft"):  # compilers import them anyway
        when_imported(root, import_all)


def import_all() -> None:
    """Import them now, if they are not imported yet."""
    import_now(META_KERNELS)


def _let_make_generators() -> None:
    """Give generators of random numbers their class's class: torch does so where it imports these kernels, and makes none before."""
    import torch

    if hasattr(torch._C, "_set_generator_metaclass"):
        from torch._opaque_base import OpaqueBaseMeta

        torch._C._set_generator_metaclass(OpaqueBaseMeta)
