import json

import pytest

from pyrogen.cli.folder import FILES, Folder, read_result
from pyrogen.errors import DataError, OutputError


def earlier_run(path, files=("result.json", "samples.png")):
    path.mkdir()
    for name in files:
        (path / name).write_text("old")
    (path / "result.json").write_text(json.dumps({"versions": {"pyrogen": "0.1.0"}, "files": list(files)}))
    return path


def test_a_new_folder_is_made_with_one_missing_parent(tmp_path):
    Folder(tmp_path / "runs" / "demo")
    assert (tmp_path / "runs" / "demo").is_dir()


def test_two_missing_parents_are_a_typo_and_nothing_is_made(tmp_path):
    with pytest.raises(OutputError, match="mkdir -p"):
        Folder(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken(tmp_path):
    folder = Folder(tmp_path)
    folder.give_up()
    assert tmp_path.is_dir()


def test_giving_up_removes_what_was_made_unless_something_is_in_it(tmp_path):
    empty, full = Folder(tmp_path / "a" / "empty"), Folder(tmp_path / "b" / "full")
    (full.path / "file").touch()
    empty.give_up()
    full.give_up()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["b", "file", "full"]


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"exists and holds thesis\.tex.*--overwrite"):
        Folder(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError):
            Folder(path, overwrite=True)


def test_where_nothing_can_be_made_is_refused():
    with pytest.raises(OutputError, match="cannot be written"):
        Folder("/proc/pyrogen")  # not even root makes folders there


def test_overwriting_removes_the_files_of_an_earlier_run_and_no_other(tmp_path):
    path = earlier_run(tmp_path / "run")
    (path / "notes.txt").write_text("mine")
    folder = Folder(path, overwrite=True)
    assert (path / "samples.png").exists()  # until there is something to replace it
    folder.clear()
    assert [entry.name for entry in path.iterdir()] == ["notes.txt"]


def test_overwriting_stops_at_a_file_of_somebody_else_with_one_of_our_names(tmp_path):
    (tmp_path / "recipe.toml").write_text("mine")
    with pytest.raises(OutputError, match=r"recipe\.toml, which is not from an earlier run"):
        Folder(tmp_path, overwrite=True)
    path = earlier_run(tmp_path / "run")
    (path / "recipe.toml").write_text("mine")
    with pytest.raises(OutputError, match=r"recipe\.toml"):
        Folder(path, overwrite=True)


def test_overwriting_believes_no_list_of_files_that_leads_elsewhere(tmp_path):
    (tmp_path / "precious").touch()
    path = earlier_run(tmp_path / "run", ("result.json", "samples.png"))
    names = ["../precious", str(tmp_path / "precious"), "samples.png", "result.json"]
    (path / "result.json").write_text(json.dumps({"versions": {"pyrogen": "0.1.0"}, "files": names}))
    folder = Folder(path, overwrite=True)
    folder.clear()
    assert (tmp_path / "precious").exists()
    assert list(path.iterdir()) == []


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path):
    (tmp_path / "precious").write_text("mine")
    path = earlier_run(tmp_path / "run")
    (path / "samples.png").unlink()
    (path / "samples.png").symlink_to(tmp_path / "precious")
    folder = Folder(path, overwrite=True)
    folder.clear()
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"versions": []}', '{"versions": {"numpy": "2"}}', "[" * 10**5])
def test_a_result_of_something_else_is_not_taken_for_ours(content, tmp_path):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(DataError, match=r"result\.json"):
        read_result(tmp_path)
    with pytest.raises(OutputError, match="not from an earlier run"):
        Folder(tmp_path, overwrite=True)


def test_a_list_of_files_that_is_no_list_is_not_believed(tmp_path):
    path = earlier_run(tmp_path / "run")
    (path / "result.json").write_text(json.dumps({"versions": {"pyrogen": "0.1.0"}, "files": 3}))
    with pytest.raises(OutputError):
        Folder(path, overwrite=True)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(DataError, match="the folder of a run"):
        read_result(tmp_path)


def test_every_file_has_a_phrase():
    assert all(FILES.values())
