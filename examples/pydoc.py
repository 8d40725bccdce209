"""This machine's own Python documentation as Markdown: `python examples/pydoc.py <folder>`.

The language topics behind `help()` and the docstrings of well-known modules of the standard library, one file each, with a heading per
class and function. Real text about a real domain, there without a download; what `make demo` answers questions about.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# fmt: off
MODULES = (
    "argparse", "array", "ast", "asyncio", "base64", "bisect", "calendar", "cmath", "codecs", "collections", "collections.abc",
    "concurrent.futures", "configparser", "contextlib", "contextvars", "copy", "csv", "ctypes", "dataclasses", "datetime", "decimal",
    "difflib", "dis", "email.message", "enum", "fileinput", "fnmatch", "fractions", "functools", "gc", "getpass", "glob", "gzip", "hashlib",
    "heapq", "hmac", "html", "html.parser", "http", "http.client", "http.server", "importlib", "inspect", "io", "ipaddress", "itertools",
    "json", "keyword", "linecache", "locale", "logging", "logging.handlers", "lzma", "math", "mimetypes", "multiprocessing",
    "multiprocessing.pool", "multiprocessing.shared_memory", "numbers", "operator", "os", "os.path", "pathlib", "pickle", "pkgutil",
    "platform", "pprint", "queue", "random", "re", "reprlib", "sched", "secrets", "select", "selectors", "shelve", "shlex", "shutil",
    "signal", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "stat", "statistics", "string", "struct", "subprocess", "sys",
    "sysconfig", "tarfile", "tempfile", "textwrap", "threading", "time", "timeit", "tokenize", "tomllib", "traceback", "tracemalloc",
    "types", "typing", "unicodedata", "unittest", "unittest.mock", "urllib.parse", "urllib.request", "uuid", "venv", "warnings", "wave",
    "weakref", "xml.etree.ElementTree", "zipfile", "zlib", "zoneinfo", "builtins",
)
# fmt: on
"""Modules whose import does nothing but define names."""

UNDERLINES = {"*": "#", "=": "##", "-": "###", "~": "####"}
"""How the topics mark headings, and how Markdown does."""


def main(folder: Path) -> None:
    """Write the files below `folder` and say how many."""
    written = 0
    for path, text in (*topics(), *library()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_text(encoding="utf-8") != text:  # an untouched file is not staged again
            target.write_text(text, encoding="utf-8")
        written += 1
    print(f"{written} Markdown files below {folder}")


def topics() -> Iterator[tuple[str, str]]:
    """The language reference behind `help("topics")`."""
    from pydoc_data.topics import topics as texts

    for name, text in sorted(texts.items()):
        yield f"language/{name.lower()}.md", markdown(text)


def markdown(text: str) -> str:
    """A topic's text with its underlined titles as Markdown headings.

    >>> markdown("Slicings\\n********\\n\\nA slicing selects items.")
    '# Slicings\\n\\nA slicing selects items.\\n'
    """

    def heading(match: re.Match[str]) -> str:
        return f"{UNDERLINES[match[2][0]]} {match[1].strip()}\n"

    return re.sub(r"^(\S.*)\n([*=~-])\2{2,}$\n?", heading, text.strip() + "\n", flags=re.MULTILINE)


def library() -> Iterator[tuple[str, str]]:
    """The docstrings of each module."""
    for name in MODULES:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                module = importlib.import_module(name)
            except ImportError:  # built without it
                continue
        yield f"library/{name}.md", "\n".join(_module(name, module))


def _module(name: str, module: ModuleType) -> Iterator[str]:
    yield from (f"# {name}", "", _doc(module))
    for member, value in _public(module):
        if inspect.isclass(value):
            yield from _class(f"{name}.{member}", value)
        elif callable(value) and _doc(value):
            yield from ("", f"## {name}.{member}", "", f"    {member}{_signature(value)}", "", _doc(value))


def _class(name: str, value: type) -> Iterator[str]:
    yield from ("", f"## class {name}", "", _doc(value))
    for member, attribute in sorted(vars(value).items()):
        plain = attribute.__func__ if isinstance(attribute, classmethod | staticmethod) else attribute
        if not member.startswith("_") and _doc(plain) and (callable(plain) or isinstance(plain, property)):
            signature = "" if isinstance(plain, property) else _signature(plain)
            yield from ("", f"### {name.rpartition('.')[2]}.{member}", "", f"    {member}{signature}", "", _doc(plain))


def _public(module: ModuleType) -> list[tuple[str, object]]:
    """What the module offers: all that `__all__` names, else what it defines itself and does not mark as private."""
    if named := getattr(module, "__all__", None):
        return [(name, getattr(module, name, None)) for name in sorted(set(named))]
    root = module.__name__.partition(".")[0]
    own = [(name, value) for name, value in sorted(vars(module).items()) if not name.startswith("_")]
    return [(name, value) for name, value in own if str(getattr(value, "__module__", root)).lstrip("_").partition(".")[0] == root]


def _signature(value: object) -> str:
    """As a reader would call it. What is this process's own in the defaults goes, so that a second run writes the same."""
    try:
        text = str(inspect.signature(value)) if callable(value) else ""
        return re.sub(r" at 0x[0-9a-f]+", "", text.replace(sys.executable, "python"))
    except Exception:  # inspect evaluates what a builtin says of its defaults, which can fail in any way
        return "(...)"


def _doc(value: object) -> str:
    """The object's own docstring; a line that Markdown would take for a heading or a code fence is escaped."""
    text = value.__doc__ if isinstance(value.__doc__, str) else ""
    return re.sub(r"^( {0,3})(?=#|~~~|```)", r"\1\\", inspect.cleandoc(text), flags=re.MULTILINE)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/pydoc.py <folder>")
    sys.path.pop(0)  # this folder: a module that imports pydoc wants the library's
    main(Path(sys.argv[1]))
