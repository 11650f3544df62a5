"""The style sheet of HTML reports."""

STYLE = """
:root { --ink: #1c2330; --soft: #667085; --line: #e4e7ec; --paper: #fff; --card: #f8f9fb;
  --good: #17804a; --care: #9a6200; --bad: #c02525;
  --copied: #2f9e68; --renamed: #7cc9a2; --adapted: #4a7fd6; --doubtful: #e8833a; --fresh: #d5d9e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2d3442; --paper: #12161e;
  --card: #1a202b; --good: #4cc38a; --care: #e0a94a; --bad: #ff7b72; --fresh: #414a5a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .15rem 0; }
.good { --tone: var(--good); } .care { --tone: var(--care); } .bad { --tone: var(--bad); } .plain { --tone: var(--soft); }
h1.good, h1.care, h1.bad { color: var(--tone); }
.origin, .figures, .kind, small, .detail, .other, .more, .arrow, .legend { color: var(--soft); }
.origin { overflow-wrap: anywhere; }
.cover { display: grid; grid-template-columns: max-content 1fr max-content; gap: .4rem .8rem; align-items: center; margin: 1rem 0 1.5rem; }
.cover .meter { height: 14px; }
main > details { border: 1px solid var(--line); border-left: 4px solid var(--tone); border-radius: 6px;
  background: var(--card); margin: .6rem 0; padding: .5rem .9rem; }
summary { cursor: pointer; }
main > details > summary { font-weight: 600; }
main > details > summary .figures { font-weight: 400; margin-left: .5rem; }
.group { margin: .4rem 0; }
.count { background: var(--line); border-radius: 9px; padding: 0 .5em; font-size: .8rem; }
ul { margin: .1rem 0 .3rem; padding-left: 1.2rem; list-style: none; }
li { margin: .15rem 0; }
code { font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.other { padding-left: 1.2rem; font-size: .9rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem; margin-bottom: .5rem; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.meter { display: inline-flex; height: 9px; border-radius: 5px; overflow: hidden; background: var(--fresh); }
.meter i { height: 100%; min-width: 1px; }
i.copied, i.used { background: var(--copied); } i.renamed { background: var(--renamed); } i.adapted { background: var(--adapted); }
i.doubtful { background: var(--doubtful); } i.fresh, i.unused { background: var(--fresh); }
.row { display: inline-grid; width: calc(100% - 1.2rem); vertical-align: top; grid-template-columns: 1fr 9rem 15rem;
  gap: 0 .8rem; align-items: center; }
.row .name { overflow-wrap: anywhere; }
@media (max-width: 44rem) { .row { grid-template-columns: 1fr 6rem; } .row small { grid-column: 1 / -1; } }
.tree details, .tree .leaf { padding-left: 1.1rem; }
.tree > details { padding-left: 0; }
.tree { max-width: 54rem; }
.tree .leaf { padding-left: 2.1rem; }
.leaf .row { width: calc(100% - .2rem); }
.kind { font-size: .85rem; margin-left: .4rem; }
@media print { main { max-width: none; } }
"""
