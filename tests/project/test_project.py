"""What holds for the project as a whole: floors, file sizes, start-up, names and promises in the documents."""

import json
import logging.config
import re
import resource
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON_FILES = sorted(p for part in ("src", "tests", "bench", "examples", "docs") for p in (ROOT / part).rglob("*.py"))
TEXT_FILES = [
    *PYTHON_FILES,
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / ".ci" / "run",
    ROOT / "justfile",
]
MOST_LINES, LONGEST_LINE = 400, 140
MOST_BYTES = 200_000
IN_ROOT = {".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "justfile", "pyproject.toml"}
HELP_TIMES = 14


def fresh(code, *args):
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def best_of(runs, *call):
    """Processor seconds of a whole process, the least of several runs: what else runs on the machine counts little."""
    seconds = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(call, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def test_no_file_is_longer_than_the_cap():
    long = {
        str(p.relative_to(ROOT)): n
        for p in PYTHON_FILES
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not long


def test_what_is_kept_in_version_control_has_a_place_and_is_small():
    """A file that a trial left in the root, or a large one, makes each clone larger for ever."""
    git = shutil.which("git") if (ROOT / ".git").exists() else None
    listed = git and subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if not listed or listed.returncode:
        pytest.skip("no git, or no checkout that it reads")
    kept = [path for path in map(Path, filter(None, listed.stdout.split("\0"))) if (ROOT / path).is_file()]
    assert {path.name for path in kept if len(path.parts) == 1} <= IN_ROOT
    assert not [str(path) for path in kept if (ROOT / path).stat().st_size > MOST_BYTES]


def test_no_line_of_the_library_is_longer_than_the_cap():
    """The formatter wraps code; texts, comments and docstrings are left as they are."""
    long = [
        f"{path.relative_to(ROOT)}:{at}"
        for path in (ROOT / "src").rglob("*.py")
        for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > LONGEST_LINE
    ]
    assert not long


def test_floors_hold(monkeypatch):
    from importlinter.cli import lint_imports

    monkeypatch.setattr(logging.config, "dictConfig", lambda _: None)  # it would silence all loggers of this process
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_no_path_of_one_machine_in_the_texts():
    places = re.compile(r"(?<![\w.])/(home|Users|work|root|farm|mnt)/|\.\./sha" + "red")
    found = [
        str(p.relative_to(ROOT)) for p in TEXT_FILES if p.exists() and places.search(p.read_text(encoding="utf-8"))
    ]
    assert not found


def test_importing_torchgraft_imports_next_to_nothing():
    code = (
        "import sys, torchgraft; print([m for m in ('torch', 'numpy', 'scipy', 'click', 'rich') if m in sys.modules])"
    )
    assert fresh(code).strip() == "[]"


def test_stages_without_values_wait_with_numpy_and_torch_until_they_need_them():
    code = (
        "import sys, torchgraft.planning, torchgraft.inspecting, torchgraft.adapting; "
        "print([m for m in ('torch', 'numpy', 'scipy') if m in sys.modules])"
    )
    assert fresh(code).strip() == "[]"


def test_the_collector_rests_while_modules_are_imported():
    """In a process that holds all of torch, one of its rounds takes longer than importing everything here."""
    code = """
import gc, sys, torchgraft
class Watch:
    def find_spec(self, name, path, target=None):
        seen.append((name, gc.isenabled()))
seen = []
sys.meta_path.insert(0, Watch())
torchgraft.load
print(len(seen) > 50, [name for name, on in seen if on and name.startswith('torchgraft')])
"""
    assert (
        fresh(code).strip()
        == "True ['torchgraft.core', 'torchgraft.core.system', 'torchgraft.core.system.fast_objects']"
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    import torch

    import torchgraft as tg

    folder = tmp_path_factory.mktemp("files")
    state = {"a.weight": torch.ones(3, 4), "a.bias": torch.zeros(3)}
    torch.save({"state_dict": state}, folder / "zip.pt")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    tg.save(folder / "plain.safetensors", state)
    return folder


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "plain.safetensors"])
def test_inspect_never_imports_torch(files, name):
    code = (
        "import sys, torchgraft; found = torchgraft.inspect(sys.argv[1]); str(found); found.to_dict();"
        "print('torch' in sys.modules)"
    )
    assert fresh(code, str(files / name)).strip() == "False"


def test_planning_between_two_files_never_imports_torch(files):
    code = (
        "import sys, torchgraft; made = torchgraft.plan(sys.argv[1], sys.argv[2]); str(made); made.to_dict();"
        "print('torch' in sys.modules)"
    )
    assert fresh(code, str(files / "zip.pt"), str(files / "plain.safetensors")).strip() == "False"


def test_help_answers_at_once():
    bare = best_of(3, sys.executable, "-c", "pass")
    took = best_of(5, sys.executable, "-m", "torchgraft", "--help")
    assert took < HELP_TIMES * bare, f"--help took {took:.3f} s, a bare interpreter {bare:.3f} s"


def test_every_command_is_documented():
    from torchgraft.cli import cli

    reference = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for name in cli.commands:
        assert f"## torchgraft {name} " in reference


def test_every_public_name_is_documented():
    import torchgraft as tg

    reference = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "reference").glob("*.md"))
    missing = [name for name in tg.__all__ if not name.startswith("_") and not re.search(rf"\b{name}\b", reference)]
    assert not missing


def test_every_keyword_is_told_where_load_is_explained():
    import torchgraft as tg

    missing = [name for name in tg.Arguments.__annotations__ if not re.search(rf"\b{name}\b", tg.load.__doc__)]
    assert missing == []


def test_every_public_name_is_where_it_is_said_to_be():
    import torchgraft as tg

    assert [name for name in tg.__all__ if not hasattr(tg, name)] == []


def test_version_is_stated_once_and_everywhere_the_same():
    import torchgraft as tg

    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert tg.__version__ == stated
    assert f"## {stated}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_json_of_a_plan_is_json(files):
    import torchgraft as tg

    assert json.loads(json.dumps(tg.plan(str(files / "zip.pt"), str(files / "zip.pt")).to_dict()))["kind"] == "plan"


def test_no_two_test_files_have_one_name():
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in {"conftest.py", "__init__.py"}]
    assert len(names) == len(set(names)), "pytest would collect the first of them twice"


def test_the_design_names_the_steps_and_the_modules_of_matching():
    inside = (
        (ROOT / "docs" / "design.md")
        .read_text(encoding="utf-8")
        .partition("## Inside matching")[2]
        .partition("\n## ")[0]
    )
    matching = ROOT / "src" / "torchgraft" / "matching"
    code = "\n".join(path.read_text(encoding="utf-8") for path in matching.rglob("*.py"))
    steps = re.findall(r"^ {4,}(?:\w+\.)?(\w+)", inside, re.MULTILINE)
    assert len(steps) > 10
    assert [step for step in steps if f"def {step}(" not in code] == []
    solving, reviewing = (
        set(re.findall(r"^- `(\w+)`", part, re.MULTILINE))
        for part in inside.partition("Inside `solving`")[2].split("Inside `reviewing`")
    )
    modules = {name: {path.stem for path in (matching / name).glob("*.py")} for name in ("solving", "reviewing")}
    assert solving <= modules["solving"]
    assert reviewing == modules["reviewing"] - {"__init__", "finished"}


def test_the_way_of_a_tensor_names_functions_where_they_are():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    way = text.partition("## The way of one tensor")[2].partition("\n## ")[0]
    rows = [[re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[2:4]] for line in way.splitlines()]
    steps = [row for row in rows if row and row[0]]
    assert len(steps) > 10
    for functions, files in steps:
        code = "\n".join((ROOT / "src" / "torchgraft" / file).read_text(encoding="utf-8") for file in files)
        assert [name for name in functions if f"def {name}(" not in code] == [], files
