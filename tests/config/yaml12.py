"""Reading YAML the way editors do (version 1.2, core schema), for tests of the JSON Schema."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml


class Loader(yaml.SafeLoader):
    """Reads `no`, `off` and `22:22` as text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:[Tt]rue|[Ff]alse)$"), list("tTfF"))
Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+\.[0-9]+$"), list("-+0123456789"))


def read(text: str) -> Any:
    """Give the plain values of a text."""
    return yaml.load(text, Loader=Loader)
