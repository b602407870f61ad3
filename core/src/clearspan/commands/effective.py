"""``clearspan settings``."""

from __future__ import annotations

import json
import sys
from typing import Any

from clearspan.settings import FIELDS, PluginTable, Secret, Settings


def show(settings: Settings) -> int:
    """Print the settings in effect as TOML. Secrets, and every setting of a plugin, are masked."""
    for table in FIELDS:
        values = {key: getattr(getattr(settings, table), key) for key in FIELDS[table]}
        nested = {key: value for key, value in values.items() if isinstance(value, dict)}
        _table(table, {key: value for key, value in values.items() if key not in nested})
        for key, value in nested.items():
            _table(f"{table}.{key}", value)
    for name, plugin_table in settings.plugin.items():
        _table(f"plugin.{name}", PluginTable(dict.fromkeys(plugin_table, Secret("masked"))))
    return 0


def _table(name: str, values: dict[str, Any]) -> None:
    sys.stdout.write(f"[{name}]\n")
    for key, value in values.items():
        sys.stdout.write(f"{key} = {_shown(value)}\n")
    sys.stdout.write("\n")


def _shown(value: object) -> str:
    if isinstance(value, Secret):
        return '"***"' if value else '""'
    return json.dumps(value, ensure_ascii=False)
