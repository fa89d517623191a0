"""`schema` prints what editors read."""

from __future__ import annotations

import json

import jsonschema

from tests.cli.program import invoke


def test_it_is_a_json_schema() -> None:
    """What is printed is a valid JSON Schema that knows the sections of the file."""
    result = invoke("schema")

    schema = json.loads(result.output)
    jsonschema.Draft7Validator.check_schema(schema)
    assert result.exit_code == 0
    assert {"listeners", "routes", "timeouts", "limits", "log"} <= schema["properties"].keys()
