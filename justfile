# The commands of CONTRIBUTING, for those who have `just`. All of them expect the venv of the README.

python := ".venv/bin/python"

# everything, in a fresh venv, as a merge needs it
ci:
    .ci/run

# style, types and floors; quick
check:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    .venv/bin/lint-imports

# mend style where a tool can
fmt:
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .

test *args:
    {{python}} -m pytest {{args}}

# the tests that take long: ten thousand random checkpoints and others
slow:
    {{python}} -m pytest -m slow

# property tests with new examples; `just search --hypothesis-seed=0` for the same ones again
search *args:
    {{python}} -m pytest -m hypothesis --hypothesis-profile=search {{args}}

# mutants of every format, a minute for each; `just fuzz --seconds 3600 onnx flax` for longer
fuzz *args:
    {{python}} tests/fuzz/run.py {{args}}

# put the present output into README and docs; read the diff before you commit it
pages *names:
    {{python}} tests/docs/pages.py {{names}}

# the same for the golden reports
golden:
    {{python}} tests/golden/golden_models.py

# figures: planning, start-up, loading beside torch
bench:
    {{python}} bench/plan_time.py
    {{python}} bench/growth.py
    {{python}} bench/inspect_time.py
    {{python}} bench/startup.py
    {{python}} bench/load_time.py
