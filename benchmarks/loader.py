"""The peer of `benchmarks.bulk`, run by a Python that has opensearch-py: its `parallel_bulk` over documents that are ready.

    python benchmarks/loader.py http://host:9200 FOLDER BYTES

It imports nothing of ours. BYTES is how large a body is at most.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.helpers import parallel_bulk

INDEX = "peer-bulk"


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    with (folder / "documents.jsonl").open("rb") as lines:
        for line in lines:
            document = json.loads(line)
            yield {"_op_type": "create", "_index": INDEX, "_id": document["chunk"]["id"], "_source": document}


def main() -> None:
    _, url, name, most = sys.argv
    client, folder = OpenSearch(url, timeout=60), Path(name)
    client.indices.delete(index=INDEX, ignore_unavailable=True)
    client.indices.create(index=INDEX, body=json.loads((folder / "creation.json").read_bytes()))
    began = time.perf_counter()
    sent = sum(done for done, _ in parallel_bulk(client, documents(folder), chunk_size=10_000, max_chunk_bytes=int(most)))
    client.indices.refresh(index=INDEX)
    held = client.count(index=INDEX)["count"]
    took = time.perf_counter() - began
    client.indices.delete(index=INDEX)
    assert held == sent
    print(json.dumps(sent / took))


if __name__ == "__main__":
    main()
