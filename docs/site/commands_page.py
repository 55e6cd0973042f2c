"""The page of the command line, made from the commands themselves."""

from __future__ import annotations

from typing import Any


def text() -> str:
    """Markdown: every command with its help, arguments, options and examples, panel by panel."""
    import typer

    from mrsr.cli import app
    from mrsr.commands.help import PANELS

    group: Any = typer.main.get_command(app)
    parts = [
        "# Command line\n",
        f"{group.help}\n",
        "`mrsr --help` lists the commands, `mrsr COMMAND --help` says what one takes. Exit codes "
        "are in [what happens when something fails](../reliability.md#exit-codes).\n",
    ]
    panels = {name: list(examples) for name, examples in PANELS.items()}
    known = {name for names in panels.values() for name in names}
    if others := [name for name in group.commands if name not in known]:
        panels["Others"] = others
    for panel, names in panels.items():
        parts.append(f"## {panel}\n")
        for name in names:
            examples = PANELS.get(panel, {}).get(name, [])
            parts.append(_command(name, group.commands[name], examples))
    return "\n".join(parts)


def _command(name: str, command: Any, examples: list[str]) -> str:
    import typer

    context = typer.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context)).replace("{", "").replace("}", "")
    records = [each.get_help_record(context) for each in command.params if each.name != "help"]
    parts = [f"### mrsr {name}\n", f"{command.help}\n", f"```text\nmrsr {name} {usage}\n```\n"]
    if rows := [f"| `{_cell(names)}` | {_cell(help)} |" for names, help in filter(None, records)]:
        parts += ["| | |\n|---|---|", *rows, ""]
    if examples:
        parts += ["```bash", *examples, "```\n"]
    return "\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
