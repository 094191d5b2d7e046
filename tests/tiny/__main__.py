"""`python -m tests.tiny WanPipeline FOLDER`."""

import sys
from pathlib import Path

from . import build

build(sys.argv[1], Path(sys.argv[2]))
