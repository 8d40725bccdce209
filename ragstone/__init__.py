"""Ragstone: a folder of domain documents in, a private OpenAI-compatible answering service out. `import ragstone` loads nothing heavy."""

import os

__version__ = "0.1.0"

# PyTorch's threads sleep when they wait for each other. Spinning takes the cores from whatever else runs there: beside other work a
# training step took 32 CPU seconds, 13 so, and on cores of its own as long either way. It is read when PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
