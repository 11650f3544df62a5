"""What people read: golden texts, and that every tensor is told of exactly once."""

import re
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from reporting_plans import HELD, changed_head, converted, copy, fresh, full, plan, plans, report, unused

from torchgraft.core.errors import PlanRefusedError
from torchgraft.core.formatting import percent, tensors
from torchgraft.core.objections import Objection
from torchgraft.core.plan import Alternative, Certainty, Plan, Why
from torchgraft.core.policy import Policy, Verdict
from torchgraft.core.results.report import Check, Report
from torchgraft.ops import Concat
from torchgraft.reporting import text_of
from torchgraft.reporting.formatting import many, size
from torchgraft.reporting.plan_sections import FATES, LIKELY_SAME, by_fate
from torchgraft.reporting.plan_views import counts as counted
from torchgraft.reporting.plan_views import plan_view, report_view

plan_text, report_text = partial(text_of, "plan"), partial(text_of, "report")


def test_a_full_match_takes_one_line_and_its_origin():
    assert report_text(report(full(), HELD)) == (
        "loaded all 12 tensors: 100 % of the model's elements (12.6 MB), 100 % of the checkpoint's\n"
        "from model.safetensors (safetensors); 0.31 s, 12.6 MB read"
    )
    assert plan_text(replace(full(), origin="")) == (
        "would load all 12 tensors: 100 % of the model's elements (12.6 MB), 100 % of the checkpoint's"
    )


def test_a_changed_head_is_one_cause():
    assert report_text(report(changed_head(), HELD)) == (
        """\
loaded 12 of 14 tensors: 82.7 % of the model's elements (1.73 kB of 2.09 kB), 4.5 % of the checkpoint's
from model.pth (torch zip, network state_dict); 0.31 s, 12.6 MB read
fresh: 2 tensors, 90 elements
  fc.{weight,bias} [10, 8] and [10]: 1000 rows in the file, 10 in the model
unused: 2 tensors, 9.00 k elements
  fc.{weight,bias} [1000, 8] and [1000]: 1000 rows in the file, 10 in the model
checks: 12 tensors compared after writing, all in full"""
    )


def test_a_conversion_reads_as_rules():
    assert plan_text(converted()) == (
        """\
refused for 1 reason; would load all 51 tensors, 1 of them in part: 99.5 % of the model's elements (13.4 kB), 99.9 % of the checkpoint's
from hub.pt (torch zip)
refused: blocks.0.norm is in doubt; settle it with rename=
unused: 1 tensor, 3 elements
  evil\\x1b[31m\\n [3]: the model has no place for it
    similar: gate
doubtful: 24 tensors, 192 elements
  blocks.{0-11}.norm.{weight,bias} [8] <- layers.{0-11}.ln.{gamma,beta}: layers.{0-11} stands where blocks.{0-11} does
    or else from layers.{0-11}.ln2.{gamma,beta}: layers.{0-11}.ln2 has the same shapes
adapted: 14 tensors, 2.35 k elements
  blocks.{0-11}.attn.qkv.weight [24, 8] <- layers.{0-11}.{q,k,v}_proj.weight (OPS): q + k + v joined in that order
  vocab.weight [7, 8] <- vocab.weight [5, 8] (rows 0-4 of 7 from the file): 5 rows copied, 2 new ones at the end stay fresh
  gate [1] (zeros): starts at zero, as you said
renamed: 13 tensors
  same names without 'module.'
  blocks.{0-11}.fc.weight <- layers.{0-11}.mlp.weight: mlp corresponds to fc
cast: 12 tensors
  float16 -> float32 (12)
harmless: 1 tensor of the model keeps its value, 1 tensor of the checkpoint is not needed: counters, indices and the like
notes: took 'model', the only network""".replace("OPS", Concat(0).describe())
    )


def test_what_is_likely_is_told_as_likely_and_counted():
    moved = Why("sequence", "layers.4 stands where layers.5 does")
    steps = [
        copy("layers.0.weight", 4, 4),
        copy("layers.1.weight", 4, 4, certainty=Certainty.LIKELY),
        copy("layers.5.weight", 4, 4, source="layers.4.weight", why=moved, certainty=Certainty.LIKELY),
        copy("out.weight", 2, 4, source="head.weight", why=Why("structure", "head corresponds to out")),
        copy(
            "blocks.attn.weight", 4, 4, source="blocks.mixer.weight", why=Why("structure", "mixer corresponds to attn")
        ),
    ]
    assert plan_text(plan(steps)).splitlines()[1:] == [
        "renamed: 3 tensors; 1 of them likely, not certain",
        "  layers.5.weight <- layers.4.weight (likely): layers.4 stands where layers.5 does",
        "  out.weight <- head.weight",  # that head corresponds to out stands there already
        "  blocks.attn.weight <- blocks.mixer.weight: mixer corresponds to attn",
        "same name, likely the same: 1 tensor",
        "  layers.1.weight (likely): same name",
    ]


def test_one_prefix_in_place_of_another_is_one_line():
    why = Why("name", "module read as backbone; same name")
    steps = [copy(f"backbone.{part}.weight", 4, source=f"module.{part}.weight", why=why) for part in "abcdefghi"]
    steps.append(copy("b.fc.weight", 4, source="a.fc.weight", why=Why("name", "same name")))
    assert plan_text(plan(steps)).splitlines()[1:] == [
        "renamed: 10 tensors",
        "  same names with 'backbone.' in place of 'module.' (9)",
        "  b.fc.weight <- a.fc.weight: same name",
    ]


def test_beside_adapters_what_the_model_holds_is_no_list():
    steps = [replace(copy("a.weight", 4, 4, source="a.lora_A.weight"), base=True)]
    nothing = Why("no counterpart", "nothing in the checkpoint corresponds to it")
    steps += [replace(fresh(f"{part}.weight", 4, why=""), why=nothing) for part in "bcd"]
    assert "fresh: 3 tensors, 12 elements\n  what the model holds stays; the file has nothing to add to it (3)\n" in (
        plan_text(plan(steps))
    )


def test_a_doubt_says_what_is_missing():
    why = Why("structure", "a corresponds to b", doubt="names don't say it")
    text = plan_text(plan([copy("b.weight", 4, 4, source="a.weight", why=why, certainty=Certainty.DOUBT)]))
    assert "b.weight [4, 4] <- a.weight: names don't say it" in text
    assert "corresponds" not in text


def test_another_reading_whose_numbers_don_t_follow_is_one_of_several():
    steps = [
        copy(
            f"b.{n}.weight", 4, source=f"a.{n}.weight", certainty=Certainty.DOUBT, why=Why("structure", "", doubt="why"),
            alternatives=(Alternative((f"a.{other}.weight",), f"a.{other} has the same shapes"),),
        )
        for n, other in enumerate((1, 0, 0, 0, 0))
    ]  # fmt: skip
    text = plan_text(plan(steps))
    assert "b.{0-4}.weight [4] <- a.{0-4}.weight: why" in text
    assert "    or else from another of a.{0,1}.weight\n" in text + "\n"


def test_only_what_was_compared_is_called_loaded():
    assert report_text(Report(plan=full())).startswith("not compared after writing; wrote all 12 tensors")
    failed = report_text(report(full(), replace(HELD, passed=False), Check("outputs", True, "equal")))
    assert failed.startswith("FAILED: values did not hold; wrote all 12")
    assert "failed: 12 tensors compared" in failed
    assert "outputs: equal" in failed


def test_warnings_are_told_and_accepted_objections_are_not():
    made = plan([], objections=(Objection("low_coverage", "only half"), Objection("missing", "some are missing")))
    assert "warnings: only half" in plan_text(made)
    assert plan_text(made).splitlines()[0].endswith("; 1 warning")
    assert "some are missing" not in plan_text(made)


def test_a_remedy_has_a_line_of_its_own_below_its_fact():
    doubt = Objection("doubt", "a is in doubt", ("a",), "settle it with rename=")
    coverage = Objection("coverage", "no match", remedy="is it the right file?")
    assert "refused: a is in doubt\n  settle it with rename=" in plan_text(plan([], objections=(doubt,)))
    both = plan_text(plan([], objections=(doubt, coverage)))
    assert "  a is in doubt\n    settle it with rename=\n  no match\n    is it the right file?" in both
    assert str(PlanRefusedError([doubt, coverage])).splitlines()[1:] == [
        "- a is in doubt",
        "  settle it with rename=",
        "- no match",
        "  is it the right file?",
    ]
    assert doubt.text == "a is in doubt; settle it with rename="


def test_an_empty_plan_is_told_of():
    assert plan_text(Plan(steps=())).startswith("would load all 0 tensors")


def test_long_sections_are_cut_and_say_by_how_much():
    left = [unused(f"part{chr(97 + n)}{'x' * n}", n + 1, why="no place") for n in range(30)]
    lines = plan_text(plan([], left), most_lines=5).splitlines()
    assert lines[-1] == "  … and 25 more"
    assert len(lines) == 9


def test_a_module_of_one_fate_is_one_line():
    left = [
        unused(f"decoder.{a}.{b}", 3, why="no place")
        for a in ("up", "down", "mid", "out", "in")
        for b in ("w", "v", "b")
    ]
    left += [unused(f"solo{n * 'x'}", 3, why="no place") for n in range(9)]
    assert "    decoder.* (15 tensors)" in plan_text(plan([], left)).splitlines()


@settings(max_examples=60)
@given(plans())
def test_every_tensor_is_told_of_exactly_once(made):
    counts = counted(made, by_fate(made))
    assert sum(counts[fate] for fate in FATES) == counts["slots"] == len(made.steps)
    assert counts["unused"] + counts["quiet_unused"] == len(made.unused)
    for view in (plan_view(made), report_view(Report(plan=made, checks=(HELD,)))):
        for section in view.sections:
            if section.title == LIKELY_SAME:
                assert 0 < section.count <= counts["copied"]
            else:
                assert section.count in (0, counts.get(section.title))
            for group in section.groups:
                assert not group.lines or sum(line.count for line in group.lines) == group.count
            if section.count:
                assert sum(group.count for group in section.groups) == section.count
        told = {section.title for section in view.sections}
        assert all(fate in told for fate in ("adapted", "doubtful", "fresh", "renamed") if counts[fate])


@given(plans())
def test_nothing_unprintable_and_no_markup_reaches_the_reader(made):
    text = plan_text(made)
    assert all(line.isprintable() for line in text.splitlines())
    text.encode()


def test_figures():
    assert [size(n) for n in (0, 999, 1000, 97_700_000, 999_600)] == ["0 B", "999 B", "1.00 kB", "97.7 MB", "1.00 MB"]
    assert many(25_557_032) == "25.6 M"
    assert [percent(x) for x in (1.0, 0.99999, 0.98249, 0.0001, 0.0)] == ["100 %", "99.9 %", "98.2 %", "<0.1 %", "0 %"]
    assert tensors(1) == "1 tensor"
    assert tensors(12345) == "12 345 tensors"


@pytest.mark.parametrize("made", [full(), changed_head(), converted()])
def test_the_first_line_has_the_coverage(made):
    first = plan_text(made).splitlines()[0]
    assert re.search(
        r"(all \d+|\d+ of \d+) tensors.*% of the model's elements \(.*B\), .* % of the checkpoint's(; .*)?$", first
    )


def test_what_was_taken_in_doubt_is_told_in_its_section_and_not_again_as_a_warning():
    taken = replace(converted(), policy=Policy(doubt=Verdict.WARN))
    text = plan_text(taken)
    assert taken.warnings
    assert "doubtful: 24 tensors" in text
    assert text.splitlines()[0].endswith("; 24 doubtful")
    assert "is in doubt" not in text
