"""The page's style sheet: light and dark, wide and narrow, screen and paper."""

CSS = """\
:root {
  color-scheme: light dark;
  --paper: #fcfcfb; --raised: #f3f4f5; --ink: #1c2024; --muted: #59636d; --rule: #dfe3e7;
  --accent: #2166ac; --failed: #b5432f; --open: #6b5a1e; --warm: #fdf3e7; --warm-rule: #e0a458;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --raised: #1e2226; --ink: #e4e7ea; --muted: #9ca6b0; --rule: #333a41;
    --accent: #86b7e8; --failed: #f0907c; --open: #d9c27a; --warm: #2a2319; --warm-rule: #b98440;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 56rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; margin: 0; }
h2 {
  font-size: 1.35rem; line-height: 1.3; font-weight: 640; letter-spacing: -.008em;
  margin: 4rem 0 1rem; padding-top: 1.1rem; border-top: 1px solid var(--rule);
}
h3 { font-size: 1.05rem; font-weight: 640; margin: 2.2rem 0 .5rem; }
h4 { font-size: .95rem; font-weight: 640; margin: 1.8rem 0 .4rem; }
p { margin: .6rem 0; max-width: 72ch; }
.eyebrow { margin: 0 0 .4rem; color: var(--muted); font-size: .85rem; letter-spacing: .02em; }
.lead { font-size: 1.08rem; line-height: 1.65; margin: 1.6rem 0; }
.note, figcaption { color: var(--muted); font-size: .875rem; line-height: 1.5; }
.absent { color: var(--muted); font-style: italic; }
.warning {
  background: var(--warm); border-left: 3px solid var(--warm-rule); padding: .7rem 1rem;
  font-size: .92rem; line-height: 1.55; border-radius: 0 4px 4px 0;
}
a { color: var(--accent); text-underline-offset: .15em; }

.numbers { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1px; margin: 2rem 0;
  background: var(--rule); border-block: 1px solid var(--rule); }
.numbers > div { background: var(--paper); padding: 1.1rem 1.2rem 1.1rem 0; }
.numbers > div + div { padding-left: 1.2rem; }
.numbers span { display: block; }
.numbers .value { font-size: 2.3rem; line-height: 1.15; font-weight: 600; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; color: var(--accent); white-space: nowrap; }
.numbers .label { font-weight: 560; margin-top: .3rem; line-height: 1.35; }

.scroll { overflow-x: auto; margin: 1.1rem 0; -webkit-overflow-scrolling: touch; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: separate; border-spacing: 0; font-size: .86rem; line-height: 1.35;
  font-variant-numeric: tabular-nums lining-nums; min-width: min(100%, 30rem); }
.caption { color: var(--muted); margin: 1.1rem 0 -.6rem; font-size: .86rem; font-style: italic; }
th, td { padding: .42rem .55rem; text-align: left; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { padding-left: 0; }
thead th { color: var(--muted); font-weight: 500; vertical-align: bottom; font-size: .8rem; }
thead tr:last-child th { border-bottom: 1.5px solid var(--muted); }
thead tr:first-child:not(:last-child) th { border-bottom: 0; padding-bottom: 0; }
th.group { white-space: nowrap; padding-left: 1.1rem; }
th.first, td.first { padding-left: 1.1rem; }
tbody th { font-weight: 500; }
tbody th:not(.n) { min-width: 9.5rem; }
td { white-space: nowrap; }
td:not(.n) { white-space: normal; min-width: 6.5rem; }
tr.strong > * { font-weight: 650; }
.n { text-align: right; }

figure { margin: 1.8rem 0; max-width: 37rem; }
.plate { background: #fff; border: 1px solid var(--rule); border-radius: 6px; padding: .8rem; }
.plate svg { display: block; width: 100%; height: auto; max-width: 35rem; margin: 0 auto; }
figcaption { margin-top: .55rem; }

.claim { display: flex; flex-wrap: wrap; align-items: center; gap: .3rem .7rem; margin-top: 3rem; }
.badge { font-size: .8rem; font-weight: 600; line-height: 1; padding: .35rem .6rem;
  border-radius: 1rem; border: 1.5px solid currentColor; white-space: nowrap; }
.badge.for { background: var(--accent); border-color: var(--accent); color: var(--paper); }
.badge.against { background: var(--failed); border-color: var(--failed); color: var(--paper); }
.badge.for.light { background: none; color: var(--accent); }
.badge.against.light { background: none; color: var(--failed); }
.badge.neither { color: var(--open); }
.badge.unmeasured { color: var(--muted); border-style: dashed; }
.reason { padding-left: .9rem; border-left: 3px solid var(--rule); }
.reason.for { border-color: var(--accent); }
.reason.against { border-color: var(--failed); }
.reason.neither { border-color: var(--open); }

.facts { margin: 1rem 0; font-size: .9rem; max-width: 52rem; }
.facts > div { display: grid; grid-template-columns: minmax(9rem, 15rem) 1fr; gap: 0 1.2rem;
  padding: .28rem 0; border-bottom: 1px solid var(--rule); }
.facts dt { color: var(--muted); }
.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }

.quoted { margin: 1.1rem 0 .3rem; color: var(--muted); font-size: .85rem; }
pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  margin: 0 0 1rem; padding: .8rem 1rem; background: var(--raised); border-radius: 6px;
  font-size: .82rem; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere;
  max-width: 52rem; }
blockquote { margin: 0 0 1rem; padding: .1rem 0 .1rem 1rem; border-left: 3px solid var(--rule);
  max-width: 72ch; white-space: pre-line; overflow-wrap: anywhere; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--accent); font-size: .92rem; width: fit-content; }
details[open] > summary { margin-bottom: .6rem; }

@media (max-width: 40rem) {
  main { padding: 2rem 1rem 3rem; }
  h1 { font-size: 1.55rem; }
  h2 { margin-top: 3rem; }
  .numbers { grid-template-columns: 1fr; }
  .numbers > div, .numbers > div + div { padding: .9rem 0; }
  .plate { padding: .4rem .2rem; }
  .facts > div { grid-template-columns: 1fr; }
  .scroll { margin-right: -1rem; }
  tbody th:first-child, thead tr:last-child th:first-child {
    position: sticky; left: 0; background: var(--paper); max-width: 9.5rem; padding-right: .7rem;
  }
  tbody th:not(.n) { min-width: 7.5rem; }
}
@media print {
  :root {
    --paper: #fff; --raised: #f6f6f6; --ink: #000; --muted: #444; --rule: #ccc;
    --accent: #1b5591; --failed: #9a3320; --open: #555; --warm: #fff; --warm-rule: #888;
  }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  h2 { margin-top: 1.6rem; }
  h2, h3, h4, .claim { break-after: avoid; }
  figure, tr, .numbers, .facts > div { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 7.4pt; }
  th, td { padding: .25rem .3rem; }
  tbody th:not(.n) { min-width: 0; }
  .plate { border: 0; padding: 0; }
  .plate svg { max-width: 14cm; margin: 0; }
  details::details-content { content-visibility: visible; }
  .badge.for { color: var(--accent); background: none; }
  .badge.against { color: var(--failed); background: none; }
}
"""
