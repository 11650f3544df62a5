"""The commands. Everything heavy is imported inside them, so that `--help` answers at once."""

from __future__ import annotations

from typing import Any

import click

from torchgraft import __version__
from torchgraft.cli.group import EXIT_CODES, ErrorGroup
from torchgraft.cli.keywords import keyword_arguments
from torchgraft.cli.options import (
    HTML_OPTION,
    JSON_OPTION,
    KEPT_PLAN_OPTION,
    LINES_OPTION,
    MODEL_OPTIONS,
    PLAN_OPTIONS,
    SHARDS_OPTION,
    Shown,
    output_option,
    with_options,
)
from torchgraft.cli.output import busy, check_outputs, progress, say, show, write_page
from torchgraft.core.errors import CorruptCheckpointError, PlanRefusedError, UsageError, printable
from torchgraft.core.formatting import tensors

OUTPUTS_DIFFER = 10
RUNS = ("inputs", "source_inputs", "golden")
NEED_VALUES = frozenset({"merge_lora", "inputs", "golden"})
FILE = click.argument("checkpoint", metavar="CHECKPOINT")


@click.group(cls=ErrorGroup, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="torchgraft")
def cli() -> None:
    """Put the weights of a checkpoint into a PyTorch model that is not quite the one they were saved from."""


@cli.command()
@FILE
@click.option("--prefer", metavar="NAME", default=None, help="Which of several networks to list.")
@click.option("--verify", is_flag=True, help="Read every tensor and compare it with the SHA-256 that the file states.")
@click.option("--statistics", is_flag=True, help="Read every tensor and say what is strange about its values.")
@with_options(JSON_OPTION, LINES_OPTION)
@click.pass_context
def inspect(
    ctx: click.Context, /, checkpoint: str, *, prefer: str | None, verify: bool, statistics: bool, **given: Any
) -> None:
    """Say what CHECKPOINT holds: networks, names, shapes, types. Nothing in it is run, and no tensor is read unasked."""
    from torchgraft import inspecting
    from torchgraft.reporting.json import inspection_to_lazy_dict

    shown = Shown.taken_from(given)
    with progress(f"reading {checkpoint}") as tell:
        found = inspecting.inspect(checkpoint, prefer=prefer, verify=verify, statistics=statistics, progress=tell)
    show("inspection", found, shown, lambda: inspection_to_lazy_dict(found))
    if found.verification and not found.verification.passed:
        ctx.exit(CorruptCheckpointError.exit_code)


@cli.command()
@FILE
@with_options(
    *MODEL_OPTIONS,
    *PLAN_OPTIONS,
    output_option("Keep the plan in a JSON file, for load --plan.", required=False),
    HTML_OPTION,
    JSON_OPTION,
    LINES_OPTION,
)
@click.pass_context
def plan(
    ctx: click.Context, /, checkpoint: str, output: str | None, model: str, kwargs: str | None, **given: Any
) -> None:
    """Say what load would do with CHECKPOINT, and touch nothing. A plan that load would refuse ends with code 7."""
    from torchgraft import api
    from torchgraft.cli.targets import files_read, for_planning, with_source
    from torchgraft.saving import save_plan

    shown = Shown.taken_from(given)
    wanted = keyword_arguments(given)
    check_outputs({"-o": output, "--html": shown.html}, [checkpoint, model, *files_read(model, given)])
    with busy(f"planning for {model}"):
        wanted = with_source(wanted, checkpoint)
        needs_values = not NEED_VALUES.isdisjoint(wanted)
        made = api.plan(for_planning(model, kwargs, needs_values=needs_values), checkpoint, **wanted)
    if output is not None:
        save_plan(output, made)
    write_page(shown.html, made)
    show("plan", made, shown)
    if output is not None:
        say(f"kept the plan in {printable(output)}, for load --plan", err=shown.as_json)
    if made.refusals:
        ctx.exit(PlanRefusedError.exit_code)


@cli.command()
@FILE
@with_options(
    *MODEL_OPTIONS,
    KEPT_PLAN_OPTION,
    *PLAN_OPTIONS,
    output_option(
        "The filled model's state dict: .safetensors, .pt or .pth. An existing file is replaced as a whole.",
        required=True,
    ),
    SHARDS_OPTION,
    HTML_OPTION,
    JSON_OPTION,
    LINES_OPTION,
)
def load(checkpoint: str, output: str, model: str, kwargs: str | None, **given: Any) -> None:
    """Fill MODEL from CHECKPOINT and save it. With a checkpoint as MODEL, what stays fresh keeps its values there."""
    from torchgraft import api
    from torchgraft.cli.targets import files_read, for_loading, with_source
    from torchgraft.saving import save_model
    from torchgraft.writing import format_of, size_of

    shown = Shown.taken_from(given)
    shard_size, kept = given.pop("shard_size"), given.pop("kept")
    wanted = keyword_arguments(given)
    if kept is not None:
        wanted["plan"] = kept
    format_of(output)
    if shard_size is not None:
        size_of(shard_size)
    read = [checkpoint, kept, *files_read(model, given)]
    check_outputs({"-o": output, "--html": shown.html}, read, output if shard_size else None)
    with progress(f"loading {checkpoint} into {model}") as tell:
        wanted = with_source(wanted, checkpoint)
        target = for_loading(model, kwargs)
        report = api.load(target, checkpoint, progress=tell, **wanted)
    with progress(f"writing {output}") as tell:
        saved = save_model(output, target, shard_size=shard_size, progress=tell)
    write_page(shown.html, report)
    show("report", report, shown)
    say(f"saved {tensors(saved.tensors)} to {printable(saved.path)} ({saved.format})", err=shown.as_json)


@cli.command()
@FILE
@click.argument("output", metavar="OUTPUT")
@click.option(
    "--dtype",
    metavar="TYPE",
    default=None,
    help="Round floating-point tensors to float16, bfloat16, float32 or float64.",
)
@with_options(SHARDS_OPTION)
@click.option(
    "--to",
    "file_format",
    type=click.Choice(["safetensors", "torch zip", "dcp"]),
    default=None,
    help="The format, whatever the ending; dcp is a folder for torch.distributed.checkpoint.",
)
@click.option("--prefer", metavar="NAME", default=None, help="Which of several networks; the others are left out.")
@click.option("--learned", metavar="FILE", default=None, help="A learned conversion that the tensors go through.")
@click.option(
    "--inverse",
    metavar="PLAN",
    default=None,
    help="A kept plan, backwards: CHECKPOINT is of its model, and OUTPUT gets the names and shapes of its checkpoint.",
)
@click.option("--rest", is_flag=True, help="With --inverse: what the model has beside as well, under its own names.")
@with_options(JSON_OPTION, LINES_OPTION)
def convert(checkpoint: str, output: str, *, inverse: str | None, rest: bool, **given: Any) -> None:
    """Write what CHECKPOINT holds to OUTPUT, in the format of its ending: .safetensors, .pt, .pth, .bin or .ckpt."""
    from torchgraft import conversions

    shown = Shown.taken_from(given)
    if inverse is not None:
        if given["learned"] is not None:
            raise UsageError(
                "--learned and --inverse are two conversions: give one, and convert the result by the other"
            )
        given["learned"] = conversions.inverse(inverse, rest=rest)
    elif rest:
        raise UsageError("--rest goes with --inverse: without it a conversion leaves nothing behind")
    with progress(f"converting {checkpoint}") as tell:
        saved = conversions.convert(checkpoint, output, progress=tell, **given)
    show("saved", saved, shown)


@cli.command()
@FILE
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="T",
    help="Greatest relative difference that passes; else by the type of the outputs.",
)
@with_options(*MODEL_OPTIONS, *PLAN_OPTIONS, JSON_OPTION, LINES_OPTION)
@click.pass_context
def verify(
    ctx: click.Context, /, checkpoint: str, model: str, kwargs: str | None, *, tolerance: float | None, **given: Any
) -> None:
    """Load CHECKPOINT into MODEL and into the model it was saved from, run both, and say where and why they differ.

    Ends with 10 when the outputs differ. Both models are built in this process; nothing is saved.
    """
    from torchgraft import api, proofs
    from torchgraft.cli.targets import for_running, with_source

    shown = Shown.taken_from(given)
    wanted = keyword_arguments(given)
    if "golden" not in wanted and not {"source_model", "inputs"} <= wanted.keys():
        raise UsageError(
            "verify needs --source-model and --input (guess looks for one), or --golden with a recorded run"
        )
    with busy(f"loading {checkpoint} twice"):
        target = for_running(model, kwargs, "--model")
        wanted = with_source(wanted, checkpoint)
        runs = {name: wanted.pop(name) for name in RUNS if name in wanted}
        report = api.load(target, checkpoint, **wanted)
    with busy("running both models"):
        found = proofs.verify(target, wanted.get("source_model"), plan=report, tolerance=tolerance, **runs)
    show("verification", found, shown)
    if not found.passed:
        ctx.exit(OUTPUTS_DIFFER)


@cli.command()
@click.argument("old")
@click.argument("new")
@click.option("--values", is_flag=True, help="Compare values, too; both files are read once.")
@click.option("--prefer", metavar="NAME", help="Which of several networks, on either side.")
@click.option(
    "--rename",
    multiple=True,
    metavar="A=B",
    help="Names under A in OLD are under B in NEW. {i} is a number; a final dot a prefix.",
)
@click.option("--exit-code", is_flag=True, help="End with code 1 when the two differ.")
@with_options(JSON_OPTION, LINES_OPTION)
@click.pass_context
def diff(ctx: click.Context, /, old: str, new: str, *, exit_code: bool, **given: Any) -> None:
    """Say how two checkpoints differ, tensor by tensor: names, shapes, types, and values on request."""
    from torchgraft import inspecting

    shown = Shown.taken_from(given)
    with progress(f"comparing {old} and {new}") as tell:
        found = inspecting.diff(old, new, progress=tell, **keyword_arguments(given))
    show("diff", found, shown)
    if exit_code and not found.equal:
        ctx.exit(1)
