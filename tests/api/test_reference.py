"""docs/api.md says what the schema says."""

from pathlib import Path

from django.core.management import call_command

from runqy.api.reference import write_reference

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_docs_are_as_the_schema_is(tmp_path: Path) -> None:
    call_command("write_api_docs", tmp_path / "api.md")

    assert DOCS.read_text() == (tmp_path / "api.md").read_text(), "run `python manage.py write_api_docs`"


def test_a_route_is_shown_with_its_request_answer_and_alias() -> None:
    told = {
        "operationId": "set_x",
        "tags": ["vaults"],
        "summary": "Set it.",
        "parameters": [{"in": "path", "name": "name"}, {"in": "query", "name": "force", "description": "Do it."}],
        "requestBody": {"content": {"application/json": {"examples": {"Request": {"value": {"a": "é"}}}}}},
        "security": [{"ApiKey": []}],
        "responses": {"201": {"content": {"application/json": {"examples": {"A": {"value": {"b": 1}}}}}}, "404": {}},
    }
    alias = told | {"operationId": "set_x_alias", "deprecated": True}

    text = write_reference({"paths": {"/x/{name}": {"post": told}, "/old/{name}": {"post": alias}}})

    assert text.partition("## Vaults\n\n")[2] == (
        "### POST /x/{name}\n\nSet it.\n\nDeprecated alias: `/old/{name}`.\n\n- `force` (query): Do it.\n\n"
        '```bash\ncurl -X POST $RUNQY/x/api-keys \\\n  -H "Authorization: Bearer $KEY" \\\n'
        "  -H 'Content-Type: application/json' \\\n  -d '{\"a\": \"é\"}'\n```\n\n"
        '201:\n\n```json\n{\n  "b": 1\n}\n```\n\nStatuses: 201, 404.\n'
    )


def test_what_a_request_must_have_is_in_its_command() -> None:
    state = {"in": "query", "name": "state", "required": True, "schema": {"enum": ["pending", "retry"]}}
    told = {
        "tags": ["tasks"],
        "operationId": "run_all",
        "summary": "Run all",
        "description": "Run all. Once more.",
        "parameters": [state, {"in": "header", "name": "If-Match", "required": True, "description": "The ETag"}],
        "responses": {"200": {}},
    }

    text = write_reference({"paths": {"/run": {"post": told}}})

    assert text.partition("## Tasks\n\n")[2] == (
        "### POST /run\n\nRun all. Once more.\n\n"
        "- `state` (query, required): one of `pending`, `retry`\n- `If-Match` (header, required): The ETag\n\n"
        '```bash\ncurl -X POST "$RUNQY/run?state=retry" \\\n  -H \'If-Match: "etag"\'\n```\n\nStatuses: 200.\n'
    )
