"""`make bench`: every measurement that the README quotes, one process after the other.

`benchmarks.training` is not among them: it needs the path of a judged collection.
"""

import subprocess
import sys

SCRIPTS = ("startup", "install", "encoding", "edge", "promotion", "scaling", "demo")

if __name__ == "__main__":
    statuses = {name: subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode for name in SCRIPTS}
    sys.exit(max(statuses.values()))
