"""`/-/openapi.json` describes every refusal, and every problem is explained where it is looked up."""

import json
import re

from processes import ROOT

from gateway.http.problems import KINDS, Problem

DESCRIBED = json.loads((ROOT / "gateway/ops/openapi.json").read_text())
CODES = {f"urn:jwt-gateway:{code}" for code in KINDS}


def test_every_refusal_is_described() -> None:
    described = DESCRIBED["components"]
    assert set(described["schemas"]["Problem"]["properties"]["type"]["enum"]) == CODES
    told = {
        name: set(content["schema"]["allOf"][1]["properties"]["type"]["enum"])
        for name, response in described["responses"].items()
        for content in response.get("content", {}).values()
    }
    assert told["Unauthorized"] == {f"urn:jwt-gateway:{code}" for code in KINDS if Problem(code).status == 401}
    assert set().union(*told.values()) <= CODES


def test_every_reference_leads_somewhere() -> None:
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(DESCRIBED))):
        place = DESCRIBED
        for part in reference.split("/"):
            place = place[part]


def test_every_problem_is_explained_where_it_is_looked_up() -> None:
    """With its status, and in the reference's table."""
    page = (ROOT / "docs/problems.md").read_text()
    explained = dict(re.findall(r"^### `([a-z-]+)`, (\d{3})$", page, re.MULTILINE))
    assert explained == {code: kind.status[:3] for code, kind in KINDS.items()}
    reference = (ROOT / "docs/reference.md").read_text()
    assert [code for code in KINDS if f"`{code}`" not in reference] == []
