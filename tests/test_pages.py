"""Every block of README, docs, packages and examples runs at a small size, or says in the page why it is not run."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_scripts import scripts
from notebook import cells, sources, stored
from page_blocks import LANGUAGES, ROOT, blocks, page_findings, pages
from page_runner import TABLE, World, plugin, run_page

RUN = [page for page in pages() if any(b.language in LANGUAGES and b.reason is None for b in blocks(page))]
AS_NOTEBOOK = {page: own["notebook"] for page, own in TABLE["pages"].items() if "notebook" in own}
ELSEWHERE = {page: own["tested_by"] for page, own in TABLE["pages"].items() if "tested_by" in own}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("inputs"))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in RUN if page not in (*ELSEWHERE, *AS_NOTEBOOK)])
def test_the_blocks_of_a_page_run(page: str, world: World, tmp_path: Path) -> None:
    for package in TABLE["pages"].get(page, {}).get("packages", ()):
        pytest.importorskip(package, reason=f"the page needs {package}")
    run_page(page, tmp_path, world)


@pytest.mark.parametrize("page", pages())
def test_everything_that_a_page_names_in_its_commands_exists(page: str) -> None:
    with plugin(TABLE["pages"].get(page, {}).get("plugin")):
        assert page_findings(page) == []


def test_the_table_speaks_of_pages_and_tests_that_exist() -> None:
    assert set(TABLE["pages"]) <= set(pages())
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(), f"{test} does not run {page}"


def test_the_notebook_is_its_page_with_outputs_and_no_path_of_a_machine() -> None:
    assert sources(stored()) == cells(), "run python tools/site/notebook.py"
    code = [cell for cell in stored()["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in code)
    assert {"error"}.isdisjoint(out["output_type"] for cell in code for out in cell["outputs"])


@pytest.mark.parametrize("script", sorted(scripts()))
def test_an_example_is_what_its_page_says(script: str) -> None:
    assert (ROOT / script).read_text() == scripts()[script], "run python tools/checks/example_scripts.py"
