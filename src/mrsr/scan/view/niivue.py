"""NiiVue as JavaScript for a page, out of the file that the package ipyniivue ships.

ipyniivue is a widget for notebooks; its `static/widget.js` is one ES module with all of NiiVue in
it, shaders and fonts included, but it exports the widget alone. The class is found by the place
where the widget makes its viewer, and is put on `globalThis` behind the module's own code.
"""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path

from mrsr.errors import UserError

PACKAGE = "ipyniivue"
# the widget's own words before `new NAME(...)`, whose NAME differs with each build
MADE = re.compile(r'"Creating new Niivue instance"\).{0,300}?=new ([A-Za-z_$][\w$]*)\(', re.DOTALL)


def script() -> str:
    """A module's code that leaves the viewer's class in `globalThis.Niivue`; asks for no file.

    Raises:
        UserError: ipyniivue is not installed, or has changed so that the class is not found.
    """
    found = importlib.util.find_spec(PACKAGE)  # without importing it, and a notebook's widgets
    if found is None or not found.submodule_search_locations:
        raise UserError("mrsr view needs NiiVue; install it with: pip install 'mrsr[view]'")
    file = Path(next(iter(found.submodule_search_locations))) / "static" / "widget.js"
    code = file.read_text(encoding="utf-8") if file.is_file() else ""
    return with_class(code, f"{PACKAGE} {metadata.version(PACKAGE)}")


def with_class(code: str, name: str) -> str:
    """The widget's code with one more statement. name: of the package, for the message.

    Raises:
        UserError: the class is not found in it.
    """
    names = set(MADE.findall(code))
    if len(names) != 1:
        raise UserError(
            f"NiiVue is not found in {name}; install the version that mrsr was tested with: "
            "pip install ipyniivue==2.4.4"
        )
    # inside a <script>, the only sequences that a browser would read as its end
    safe = re.sub(r"</(script)", r"<\\/\1", code, flags=re.IGNORECASE).replace("<!--", "<\\!--")
    return f"/*{licence()}*/\n{safe}\nglobalThis.Niivue = {names.pop()};\n"


def licence() -> str:
    """NiiVue's licence, which asks to stay with every copy; empty where the package has none."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return ""
    texts = [str(file.read_text()) for file in files if file.name.upper().startswith("LICENSE")]
    return "\n".join(texts).replace("*/", "* /")
