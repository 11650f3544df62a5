"""The commands. Everything heavy is imported inside them, so that `--help` answers at once."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from torchgraft.cli.group import EXIT_CODES, ErrorGroup, busy, progress
from torchgraft.cli.options import HTML_OPTION, JSON_OPTION, LINES_OPTION, PLAN_OPTIONS, Shown, asked, with_options
from torchgraft.cli.output import expect_apart, show, write_page
from torchgraft.core.errors import CorruptCheckpointError, PlanRefusedError, printable

SHARDS = click.option(
    "--shard-size", metavar="SIZE", default=None, help="Write several files of at most SIZE (5GB, 500MiB) and an index."
)
OUTPUTS_DIFFER = 10
FILE = click.argument("checkpoint", metavar="CHECKPOINT", type=click.Path())


@click.group(cls=ErrorGroup, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="torchgraft", prog_name="torchgraft")
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
    from torchgraft import api
    from torchgraft.reporting.json import inspection_in_turn

    shown = Shown.taken_from(given)
    with progress(f"reading {checkpoint}") as tell:
        found = api.inspect(checkpoint, prefer=prefer, verify=verify, statistics=statistics, progress=tell)
    show("inspection", found, shown, lambda: inspection_in_turn(found))
    if found.verification and not found.verification.passed:
        ctx.exit(CorruptCheckpointError.exit_code)


@cli.command()
@FILE
@click.option(
    "-o",
    "--output",
    default=None,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep the plan in a JSON file, for load --plan.",
)
@with_options(*PLAN_OPTIONS, HTML_OPTION, JSON_OPTION, LINES_OPTION)
@click.pass_context
def plan(
    ctx: click.Context, /, checkpoint: str, output: str | None, model: str, kwargs: str | None, **given: Any
) -> None:
    """Say what load would do with CHECKPOINT, and touch nothing. A plan that load would refuse ends with code 7."""
    from torchgraft import api
    from torchgraft.cli.targets import for_planning
    from torchgraft.saving import save_plan

    shown = Shown.taken_from(given)
    wanted = asked(given)
    expect_apart({"-o": output, "--html": shown.html}, [checkpoint, model, given["learned"]])
    with busy(f"planning for {model}"):
        made = api.plan(for_planning(model, kwargs, needs_values="merge_lora" in wanted), checkpoint, **wanted)
    if output is not None:
        save_plan(output, made)
    write_page(shown.html, made)
    show("plan", made, shown)
    if made.refusals:
        ctx.exit(PlanRefusedError.exit_code)


@cli.command()
@FILE
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The filled model's state dict: .safetensors, .pt or .pth. An existing file is replaced as a whole.",
)
@SHARDS
@click.option(
    "--plan",
    "kept",
    default=None,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Carry out a plan that was kept by plan -o; refused where MODEL or CHECKPOINT is another.",
)
@with_options(*PLAN_OPTIONS, HTML_OPTION, JSON_OPTION, LINES_OPTION)
@click.pass_context
def load(ctx: click.Context, /, checkpoint: str, output: str, model: str, kwargs: str | None, **given: Any) -> None:
    """Fill MODEL from CHECKPOINT and save it. With a checkpoint as MODEL, what stays fresh keeps its values there."""
    from torchgraft import api
    from torchgraft.cli.targets import for_loading
    from torchgraft.writing import format_of, save_model, size_of

    shown = Shown.taken_from(given)
    shard_size, kept = given.pop("shard_size"), given.pop("kept")
    wanted = asked(given)
    if kept is not None:
        said = {name for name in wanted if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
        wanted = {"plan": kept, **{name: wanted[name] for name in said}}
    format_of(output)
    if shard_size is not None:
        size_of(shard_size)
    expect_apart(
        {"-o": output, "--html": shown.html}, [checkpoint, kept, given["learned"]], output if shard_size else None
    )
    with progress(f"loading {checkpoint} into {model}") as tell:
        target = for_loading(model, kwargs)
        report = api.load(target, checkpoint, progress=tell, **wanted)
    with progress(f"writing {output}") as tell:
        saved = save_model(output, target, shard_size=shard_size, progress=tell)
    write_page(shown.html, report)
    show("report", report, shown)
    click.echo(f"saved {saved.tensors} tensors to {printable(saved.path)} ({saved.format})", err=shown.as_json)


@cli.command()
@FILE
@click.argument("output", metavar="OUTPUT", type=click.Path(dir_okay=False))
@click.option(
    "--dtype",
    metavar="TYPE",
    default=None,
    help="Round floating-point tensors to float16, bfloat16, float32 or float64.",
)
@SHARDS
@click.option(
    "--to",
    "file_format",
    type=click.Choice(["safetensors", "torch zip", "dcp"]),
    default=None,
    help="The format, whatever the ending; dcp is a folder for torch.distributed.checkpoint.",
)
@click.option("--prefer", metavar="NAME", default=None, help="Which of several networks; the others are left out.")
@with_options(JSON_OPTION, LINES_OPTION)
def convert(checkpoint: str, output: str, **given: Any) -> None:
    """Write what CHECKPOINT holds to OUTPUT, in the format of its ending: .safetensors, .pt, .pth, .bin or .ckpt."""
    from torchgraft import saving

    shown = Shown.taken_from(given)
    with progress(f"converting {checkpoint}") as tell:
        saved = saving.convert(checkpoint, output, progress=tell, **given)
    show("saved", saved, shown)


@cli.command()
@FILE
@click.option(
    "--source-model",
    required=True,
    metavar="MODEL",
    help="The model that CHECKPOINT was saved from: module:callable or file.py:callable.",
)
@click.option("--source-kwargs", metavar="JSON", default=None, help="Keyword arguments for it, as a JSON object.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="[NAME=]SHAPE",
    help="What both are run on: 1x3x224x224 (random), ids=1x16:0-999 (random whole numbers), a file of tensors, or guess.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=None,
    metavar="T",
    help="Greatest relative difference that passes; else by the type of the outputs.",
)
@with_options(*PLAN_OPTIONS, JSON_OPTION, LINES_OPTION)
@click.pass_context
def verify(  # noqa: PLR0913  # one parameter for each option
    ctx: click.Context,
    /,
    checkpoint: str,
    model: str,
    kwargs: str | None,
    *,
    source_model: str,
    source_kwargs: str | None,
    inputs: tuple[str, ...],
    tolerance: float | None,
    **given: Any,
) -> None:
    """Load CHECKPOINT into MODEL and into the model it was saved from, run both, and say where and why they differ.

    Ends with 10 when the outputs differ. Both models are built in this process; nothing is saved.
    """
    from torchgraft import api, proofs
    from torchgraft.cli.targets import for_running, given_inputs

    shown = Shown.taken_from(given)
    wanted = asked(given)
    example = given_inputs(inputs)
    with busy(f"loading {checkpoint} twice"):
        target, origin = (
            for_running(model, kwargs, "--model"),
            for_running(source_model, source_kwargs, "--source-model"),
        )
        api.load(origin, checkpoint, **({"prefer": wanted["prefer"]} if "prefer" in wanted else {}))
        report = api.load(target, checkpoint, source_model=origin, **wanted)
    with busy("running both models"):
        found = proofs.verify(target, origin, example, plan=report, tolerance=tolerance)
    show("verification", found, shown)
    if not found.passed:
        ctx.exit(OUTPUTS_DIFFER)


@cli.command()
@click.argument("old", type=click.Path())
@click.argument("new", type=click.Path())
@click.option("--values", is_flag=True, help="Compare values, too; both files are read once.")
@click.option("--exit-code", is_flag=True, help="End with code 1 when the two differ.")
@with_options(JSON_OPTION, LINES_OPTION)
@click.pass_context
def diff(ctx: click.Context, /, old: str, new: str, *, values: bool, exit_code: bool, **given: Any) -> None:
    """Say how two checkpoints differ, tensor by tensor: names, shapes, types, and values on request."""
    from torchgraft import api

    shown = Shown.taken_from(given)
    with progress(f"comparing {old} and {new}") as tell:
        found = api.diff(old, new, values=values, progress=tell)
    show("diff", found, shown)
    if exit_code and not found.equal:
        ctx.exit(1)
