"""Bringing what is in force up to the source folder, as a run that others can watch. It knows no server."""

from __future__ import annotations

from ragstone import project, runs
from ragstone.config import Settings
from ragstone.corpus import snapshot as snapshots
from ragstone.release import Release
from ragstone.show import Show
from ragstone.store import Store


def sync(settings: Settings, store: Store, show: Show) -> Release:
    """As `project.build`. It waits for one that is under way."""
    with runs.kept(settings.work_folder, "build", show) as (shown, ended):
        made = project.build(settings, store, shown)
        size = snapshots.size(store, made.snapshot)
        ended.result = {"release": made.id, "documents": size.documents, "chunks": size.chunks, "failed": len(size.failures)}
    return made
