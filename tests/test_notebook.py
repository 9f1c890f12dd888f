"""The notebook, from top to bottom, as somebody runs it."""

import json

import pytest
from conftest import ROOT

NOTEBOOK = ROOT / "scripts" / "acgd.ipynb"


def test_the_notebook_in_git_has_no_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert 8 <= len(code) <= 12
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.process
@pytest.mark.slow
def test_the_notebook_runs_and_its_results_show_themselves(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="pip install nbclient ipykernel")
    client = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ACGD_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=300, resources=resources).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = ["".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
             for cell in code]  # fmt: skip
    pictures = [html.count("<img") for html in shown]
    assert pictures[1:3] == [3, 2] and pictures[4:7] == [4, 4, 1]
    assert shown[1].count("<audio") == 3 and shown[2].count("<audio") == 2
    printed = [output.text for output in code[-1].outputs if output.output_type == "stream"]
    assert "made before" in "".join(printed)
