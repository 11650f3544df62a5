"""A plan or a report as one HTML page that needs nothing else: no script, no font, no link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from torchgraft.core.errors import printable
from torchgraft.core.formatting import percent, tensors
from torchgraft.core.plan import Plan, Step
from torchgraft.reporting.formatting import many
from torchgraft.reporting.plan_sections import fate
from torchgraft.reporting.view import Group, Line, Section, View

SHOWN_FATES = ("copied", "renamed", "adapted", "doubtful", "fresh")
DEEPEST = 64


@dataclass(slots=True)
class Node:
    """One module: its elements by fate, all below it included. Elements of partly filled slots are split."""

    name: str
    kind: str = ""
    elements: dict[str, int] = field(default_factory=dict)
    tensors: int = 0
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All elements at and below the module; harmless ones are left out."""
        return sum(self.elements.values())

    @property
    def filled(self) -> float:
        """Share of the elements that are filled; 1.0 where there are none."""
        return 1 - self.elements.get("fresh", 0) / self.total if self.total else 1.0


def module_tree(plan: Plan) -> Node:
    """Return the tree of the modules that hold tensors; each slot counts once, under its canonical name."""
    root = Node("")
    for step in plan.steps:
        slot_fate = fate(step)
        if slot_fate == "quiet" or not step.slot.persistent:
            continue
        for node in _path(root, step):
            _count(node, step, slot_fate)
    return root


def visible_nodes(root: Node, most_nodes: int) -> set[int]:
    """Return the ids of the nodes to show: level by level, no more than `most_nodes` and not deeper than any module is."""
    level, shown = [root], {id(root)}
    for _ in range(DEEPEST):
        level = [child for node in level for child in node.children.values()]
        if not level or len(shown) + len(level) > most_nodes:
            break
        shown.update(map(id, level))
    return shown


def _path(root: Node, step: Step) -> Iterator[Node]:
    """Yield the nodes from the root to the module that holds the slot, new ones where needed."""
    yield root
    node = root
    for part in step.slot.name.split(".")[:-1]:
        node = node.children.setdefault(part, Node(part))
        yield node
    node.kind = node.kind or step.slot.kind


def _count(node: Node, step: Step, slot_fate: str) -> None:
    node.tensors += 1
    elements = step.slot.spec.numel if slot_fate == "fresh" else step.filled
    node.elements[slot_fate] = node.elements.get(slot_fate, 0) + elements
    left = step.slot.spec.numel - step.filled
    if left and slot_fate != "fresh":
        node.elements["fresh"] = node.elements.get("fresh", 0) + left


MOST_NODES = 3000
MOST_LINES = 400
OPEN_DEPTH = 1
_FATE_MEANINGS = {
    "copied": "copied under its own name", "renamed": "copied from another name", "adapted": "changed on the way",
    "doubtful": "more than one reading", "fresh": "keeps its initial values",
}  # fmt: skip


def page(view: View, plan: Plan) -> str:
    """Return the view of a plan, or of the report of one, as a self-contained page."""
    root = module_tree(plan)
    shown = visible_nodes(root, MOST_NODES)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_escaped(view.verdict.partition(':')[0])}</title><style>{STYLE}</style></head><body><main>",
        *_header(view, plan, root),
        *(text for section in view.sections for text in _section(section)),
        "<h2>Modules</h2>",
        *_legend(root),
        '<div class="tree">',
        *_tree(root, "model", 0, shown),
        "</div></main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _header(view: View, plan: Plan, root: Node) -> Iterator[str]:
    head, _, figures = view.verdict.partition(": ")
    yield f'<header><h1 class="{view.tone}">{_escaped(head)}</h1><p>{_escaped(figures)}</p>'
    if view.origin:
        yield f'<p class="origin">{_escaped(view.origin)}</p>'
    cover = plan.coverage
    used = {"used": cover.source_used, "unused": cover.source_elements - cover.source_used}
    yield '<div class="cover">'
    yield f"<span>model</span>{_meter(root.elements, SHOWN_FATES)}<b>{percent(cover.target)}</b>"
    yield f"<span>checkpoint</span>{_meter(used, ('used', 'unused'))}<b>{percent(cover.source)}</b>"
    yield "</div></header>"


def _section(section: Section) -> Iterator[str]:
    figures = f' <span class="figures">{_escaped(section.figures)}</span>' if section.figures else ""
    yield f'<details open class="{section.tone}"><summary>{_escaped(section.title)}{figures}</summary>'
    room, covered = MOST_LINES, 0
    for group in section.groups:
        if room <= 0:
            break
        yield from _group(group, room)
        covered += sum(line.count for line in group.lines[:room]) if group.lines else group.count
        room -= max(1, len(group.lines))
    hidden = sum(group.count for group in section.groups) - covered
    if hidden > 0:
        yield f'<p class="more">… and {hidden} more</p>'
    yield "</details>"


def _group(group: Group, room: int) -> Iterator[str]:
    count = f' <span class="count">{group.count}</span>' if group.count > 1 else ""
    yield f'<div class="group"><p class="cause">{_escaped(group.cause)}{count}</p>'
    if group.remedy:
        yield f'<p class="remedy">{_escaped(group.remedy)}</p>'
    if group.lines:
        yield "<ul>"
        for line in group.lines[:room]:
            yield f"<li>{_line(line)}</li>"
        yield "</ul>"
    yield "</div>"


def _line(line: Line) -> str:
    source = (
        f' <span class="arrow">&larr;</span> <code class="source">{_escaped(line.source)}</code>' if line.source else ""
    )
    detail = f' <span class="detail">{_escaped(line.detail)}</span>' if line.detail else ""
    others = "".join(f'<div class="other">{_escaped(other)}</div>' for other in line.others)
    return f"<code>{_escaped(line.text)}</code>{source}{detail}{others}"


def _legend(root: Node) -> Iterator[str]:
    yield '<p class="legend">'
    for name in SHOWN_FATES:
        if root.elements.get(name):
            yield f'<span><i class="{name}"></i><b>{name}</b> {_FATE_MEANINGS[name]}</span>'
    yield "</p>"


def _tree(node: Node, name: str, depth: int, shown: set[int]) -> Iterator[str]:
    kind = f' <span class="kind">{_escaped(node.kind)}</span>' if node.kind else ""
    figures = f"{percent(node.filled)} of {many(node.total)} in {tensors(node.tensors)}"
    named = f'<span class="name"><code>{_escaped(name)}</code>{kind}</span>'
    row = f'<span class="row">{named}{_meter(node.elements, SHOWN_FATES)}<small>{figures}</small></span>'
    inside = [child for child in node.children.values() if id(child) in shown]
    if not node.children:
        yield f'<div class="leaf">{row}</div>'
        return
    yield f"<details{' open' if depth < OPEN_DEPTH else ''}><summary>{row}</summary>"
    for child in inside:
        yield from _tree(child, child.name, depth + 1, shown)
    if len(inside) < len(node.children):
        yield f'<div class="leaf more">{len(node.children) - len(inside)} modules not shown</div>'
    yield "</details>"


def _meter(elements: Mapping[str, int], kinds: Sequence[str]) -> str:
    """Return a bar with a segment for each of `kinds`, as long as its share of the elements."""
    total = sum(elements.values())
    shares = [(kind, elements[kind] / total) for kind in kinds if elements.get(kind)]
    bars = "".join(f'<i class="{kind}" style="width:{100 * share:.3f}%"></i>' for kind, share in shares)
    label = ", ".join(f"{kind} {percent(share)}" for kind, share in shares)
    return f'<span class="meter" title="{label}" role="img" aria-label="{label}">{bars}</span>'


def _escaped(text: str) -> str:
    return escape(printable(text, 2000))


STYLE = """
:root { --ink: #1c2330; --soft: #667085; --line: #e4e7ec; --paper: #fff; --card: #f8f9fb;
  --good: #17804a; --care: #9a6200; --bad: #c02525;
  --copied: #2f9e68; --renamed: #7cc9a2; --adapted: #4a7fd6; --doubtful: #e8833a; --fresh: #d5d9e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2d3442; --paper: #12161e;
  --card: #1a202b; --good: #4cc38a; --care: #e0a94a; --bad: #ff7b72; --fresh: #414a5a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .15rem 0; }
.good { --tone: var(--good); } .care { --tone: var(--care); } .bad { --tone: var(--bad); } .plain { --tone: var(--soft); }
h1.good, h1.care, h1.bad { color: var(--tone); }
.origin, .figures, .kind, small, .detail, .other, .more, .arrow, .legend { color: var(--soft); }
.cover { display: grid; grid-template-columns: max-content 1fr max-content; gap: .4rem .8rem;
  align-items: center; margin: 1rem 0 1.5rem; }
.cover .meter { height: 14px; }
main > details { border: 1px solid var(--line); border-left: 4px solid var(--tone); border-radius: 6px;
  background: var(--card); margin: .6rem 0; padding: .5rem .9rem; }
summary { cursor: pointer; }
main > details > summary { font-weight: 600; }
main > details > summary .figures { font-weight: 400; margin-left: .5rem; }
.group { margin: .4rem 0; }
.remedy { padding-left: 1.2rem; }
.count { background: var(--line); border-radius: 9px; padding: 0 .5em; font-size: .8rem; }
ul { margin: .1rem 0 .3rem; padding-left: 1.2rem; list-style: none; }
li { margin: .15rem 0; }
code { font: 13px/1.5 ui-monospace, monospace; unicode-bidi: isolate; }
.other { padding-left: 1.2rem; font-size: .9rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem; margin-bottom: .5rem; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.meter { display: inline-flex; height: 9px; border-radius: 5px; overflow: hidden; background: var(--fresh); }
.meter i { height: 100%; min-width: 1px; }
i.copied, i.used { background: var(--copied); } i.renamed { background: var(--renamed); }
i.adapted { background: var(--adapted); }
i.doubtful { background: var(--doubtful); } i.fresh, i.unused { background: var(--fresh); }
.row { display: inline-grid; width: calc(100% - 1.2rem); vertical-align: top; grid-template-columns: 1fr 9rem 15rem;
  gap: 0 .8rem; align-items: center; }
@media (max-width: 44rem) { .row { grid-template-columns: 1fr 6rem; } .row small { grid-column: 1 / -1; } }
.tree details, .tree .leaf { padding-left: 1.1rem; }
.tree > details { padding-left: 0; }
.tree { max-width: 54rem; }
.tree .leaf { padding-left: 2.1rem; }
.leaf .row { width: calc(100% - .2rem); }
.kind { font-size: .85rem; margin-left: .4rem; }
@media print { main { max-width: none; } }
"""
