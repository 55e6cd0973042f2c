"""The page of the settings, made from the schema that checks params.yaml."""

from __future__ import annotations

import json
import re
from typing import Any

HEAD = """# Settings

Every setting of `params.yaml` and of an experiment's file with its type, bounds, default and
meaning, made from the schema that checks them (`mrsr schema` prints that of params.yaml for
editors). An experiment changes settings under its `set:`; `mrsr params --experiment NAME` prints
the values in force. The reason for a value is in [replication.md](../replication.md), its line of
code in [the schema](code/params.md).

`required` marks settings without a default: `params.yaml` gives them.
"""


def text() -> str:
    """Markdown: the sections of params.yaml, then the parts they are made of."""
    from mrsr.params import loading, schema

    document = loading.json_schema()
    experiment = loading.adapter(schema.Experiment).json_schema()
    parts = [HEAD, "## params.yaml\n", _table(document)]
    parts += ["## An experiment's file\n", _table(experiment)]
    for name, section in sorted({**experiment.get("$defs", {}), **document["$defs"]}.items()):
        parts += [f"## {name}\n", _plain(section.get("description", "")) + "\n", _table(section)]
    return "\n".join(parts)


def _table(section: dict[str, Any]) -> str:
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, field in section["properties"].items():
        if name in section.get("required", ()):
            default = "required"
        elif "default" in field:
            default = f"`{json.dumps(field['default'])}`"
        else:  # made anew each time: a section with its own defaults, or nothing in it
            default = "as below" if "$ref" in field else "empty"
        meaning = _plain(field.get("description", ""))
        rows.append(f"| `{name}` | {kind(field)} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def kind(field: dict[str, Any]) -> str:
    """A JSON schema's type in words: 'integer, 1 or more', 'one of `a`, `b`', a link to a part."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " or ".join(dict.fromkeys(kind(each) for each in field[several]))
    if "enum" in field:
        return "one of " + ", ".join(f"`{each}`" for each in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])}: {kind(field['prefixItems'][0])}"
    name = field.get("type", "anything")
    if name == "array":
        return f"list of {kind(field.get('items', {}))}"
    if name == "object":
        inner = [*field.get("patternProperties", {}).values()]
        inner += [v for v in [field.get("additionalProperties")] if isinstance(v, dict)]
        return "name → " + kind(inner[0]) if inner else "name → anything"
    return ", ".join([name, *_bounds(field)])


def _bounds(field: dict[str, Any]) -> list[str]:
    words = {
        "minimum": "{} or more",
        "exclusiveMinimum": "above {}",
        "maximum": "{} or less",
        "exclusiveMaximum": "below {}",
    }
    return [words[key].format(field[key]) for key in words if key in field]


def _plain(words: str) -> str:
    """A description in one cell of a table."""
    words = re.sub(r"``([^`]*)``", r"`\1`", " ".join(words.split()))
    return words.replace("|", r"\|").replace("<", "&lt;")
