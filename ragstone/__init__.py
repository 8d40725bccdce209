"""Ragstone: a folder of domain documents in, a private OpenAI-compatible answering service out. `import ragstone` loads nothing heavy."""

__version__ = "0.1.0"
