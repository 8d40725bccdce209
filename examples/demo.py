"""`make demo`: the Python documentation of this machine (or a folder of yours) in, cited answers out.

It writes the documents, then only runs the public commands that its output shows, so everything it does can be typed by hand.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    arguments = parser().parse_args()
    folder = Path(arguments.folder).resolve()
    docs = Path(arguments.docs).resolve() if arguments.docs else folder / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.docs and not docs.exists():
        subprocess.run([sys.executable, HERE / "pydoc.py", docs], check=True)
    os.chdir(folder)
    if not arguments.ask:
        return become("up", str(docs))
    return run("build", str(docs)) or become("ask", arguments.ask)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="the project folder: settings, keys and the store go there")
    parser.add_argument("--docs", default="", help="your own folder of documents; empty: this machine's Python documentation")
    parser.add_argument("--ask", default="", help="answer this question and end; empty: serve until Ctrl-C")
    return parser


def run(*arguments: str) -> int:
    """The exit status of one command, which is shown as it could be typed."""
    show(arguments)
    return subprocess.run([sys.executable, "-m", "ragstone", *arguments], check=False).returncode


def become(*arguments: str) -> int:
    """Let the command take this process's place, so that Ctrl-C is its own."""
    show(arguments)
    os.execv(sys.executable, [sys.executable, "-m", "ragstone", *arguments])


def show(arguments: tuple[str, ...]) -> None:
    print("$ ragstone", *[f'"{argument}"' if " " in argument else argument for argument in arguments], flush=True)


if __name__ == "__main__":
    sys.exit(main())
