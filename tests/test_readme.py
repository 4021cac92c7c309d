"""The README does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_snippets_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(snippets) >= 3
    script = tmp_path / "readme.py"
    script.write_text("\n".join(snippets))
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"log p\(x\) >?= -\d", done.stdout)
    # the posterior mean of 50 draws around 3 is within 6 standard errors, 6 / sqrt(50), of it
    mean = re.search(r"^posterior mean (\S+)$", done.stdout, flags=re.M)
    assert mean and abs(float(mean[1]) - 3) < 0.85


def test_the_table_of_results_says_what_the_json_says():
    done = subprocess.run([sys.executable, ROOT / "docs" / "results.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_that_the_readme_names_are_there():
    named = set(re.findall(r"`((?:tests|models|examples|docs)/[\w./-]+)`", README))
    named |= set(re.findall(r"\]\(([\w./-]+)\)", README))
    assert named
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_examples_run(script, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / script, "--epochs", "2"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"log p\([xy]\) ", done.stdout)  # >= a bound, or = the exact number
