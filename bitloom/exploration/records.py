"""Finished configurations in a file of JSON lines, which only ever grows."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bitloom.exploration.evaluation import Result, Task, version


@dataclass(slots=True)
class Records:
    """path: one line for each finished configuration, of any network and any bitloom, by its key."""

    path: Path

    def read(self, tasks: list[Task]) -> dict[str, Result]:
        """By key, those of `tasks` that are there. A last line that was cut off is taken away."""
        if not self.path.is_file():
            return {}
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with self.path.open("r+b") as stream:
                stream.truncate(len(whole))
        wanted = {t.key: t for t in tasks}
        found: dict[str, Result] = {}
        for line in whole.splitlines():
            key, result = _read(line)
            if key in wanted and result is not None:
                # The key does not know in which words the user gave the point.
                found[key] = Result(point=wanted[key].point, **result)
        return found

    def append(self, task: Task, result: Result) -> None:
        """On disk before this returns."""
        record = {"key": task.key, "bitloom": version(), "graph": task.graph, **result.as_dict()}
        with self.path.open("a") as stream:
            stream.write(json.dumps(record) + "\n")


def _read(line: bytes) -> tuple[str, dict[str, Any] | None]:
    """A damaged line counts as absent."""
    names = {f.name for f in fields(Result)} - {"point"}
    try:
        record: Any = json.loads(line)
    except ValueError:
        return "", None
    if not isinstance(record, dict) or not names <= record.keys():
        return "", None
    return str(record.get("key")), {name: record[name] for name in names}
