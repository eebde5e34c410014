"""A result as one HTML page that needs nothing else: pictures inside, no address loaded."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastregion._version import __version__
from fastregion.evaluation.benchmarks.base import Benchmark, Item
from fastregion.evaluation.data_urls import data_url
from fastregion.evaluation.report import interval, number, remarks, title
from fastregion.evaluation.result import Result
from fastregion.evaluation.row_file import write_whole
from fastregion.images import RgbImage, load_image
from fastregion.models.drawing import draw_regions
from fastregion.regions import as_regions
from fastregion.regions.coercion import EmptyRegionError

__all__ = ["PAGE", "picture_of", "write_page"]

PAGE = "report.html"
_SHOWN = 200  # items; with more, a browser loads megabytes that nobody looks at
_SIDE = 320  # pixels of a picture's longer side

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --bad: #c0392b; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } .scroll { overflow-x: auto; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { opacity: .7; } dd { margin: 0; overflow-wrap: anywhere; }
#items { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 1rem; }
article { border: 1px solid var(--line); border-radius: 8px; padding: .8rem;
  background: var(--soft); align-self: start; }
article.failure { border-left: 5px solid var(--bad); }
article img { display: block; max-width: 100%; height: auto; border-radius: 4px; margin: auto; }
article h3 { font-size: .85rem; font-weight: 600; margin: .5rem 0 .2rem; overflow-wrap: anywhere; }
article p { margin: .3rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.group { font-weight: 400; opacity: .7; } details { font-size: .85rem; }
.none { font-style: italic; opacity: .7; } label { margin-right: 1rem; }
"""

_SCRIPT = """
const group = document.getElementById("group"), only = document.getElementById("only");
function show() {
  let shown = 0;
  for (const item of document.querySelectorAll("#items article")) {
    item.hidden = (group.value !== "" && item.dataset.group !== group.value)
      || (only.checked && !item.classList.contains("failure"));
    shown += !item.hidden;
  }
  document.getElementById("shown").textContent = shown + " shown";
}
group.addEventListener("change", show); only.addEventListener("change", show); show();
"""


def write_page(
    file: Path, result: Result, items: Sequence[Item], show: Callable[[Item], str | None]
) -> None:
    """Write the page, failures first.

    Args:
        file: where; a stop never leaves half of it.
        result: of the evaluation.
        items: all that were asked for.
        show: the picture of an item as a data URL, or None without one.
    """
    write_whole(file, _page(result, items, show))


def picture_of(benchmark: Benchmark, data: Path) -> Callable[[Item], str | None]:
    """What draws an item's regions on its picture, small, as a data URL.

    Of a video, the frame in the middle. Nothing is drawn where a file is not there.
    """

    def show(item: Item) -> str | None:
        try:
            picture: Any = benchmark.picture(item, data)
        except FileNotFoundError:  # results may be looked at without the data
            return None
        masks: Sequence[Any] = item.masks
        if isinstance(picture, list):
            middle = len(picture) // 2
            picture, masks = picture[middle], item.masks[middle : middle + 1]
        return _data_url(load_image(picture), masks)

    return show


def _data_url(image: RgbImage, regions: Sequence[Any]) -> str:
    masks = []
    for region in regions:
        try:
            masks += [found.mask for found in as_regions([region], image.shape[:2])]
        except (EmptyRegionError, TypeError):  # an object that is not to be seen in this frame
            continue
    everything = [np.ones(image.shape[:2], np.bool_)]
    drawing = draw_regions(image, masks or everything, longest_side=_SIDE)
    return data_url(np.asarray(drawing), "JPEG", quality=80)


def _page(result: Result, items: Sequence[Item], show: Callable[[Item], str | None]) -> str:
    failures = [*result.missing, *result.unjudged, *result.failures]
    place = {name: k for k, name in reversed(list(enumerate(failures)))}
    order = sorted(items, key=lambda item: place.get(item.id, len(place)))  # stable
    shown = order[:_SHOWN]
    groups = dict.fromkeys(item.group for item in shown)
    options = "".join(f"<option>{html.escape(group)}</option>" for group in groups)
    left_out = (
        f"<p>{_SHOWN} of {len(items)} items are shown, failures first; scores.json has all.</p>"
        if len(items) > _SHOWN
        else ""
    )
    articles = "".join(_article(item, result, item.id in place, show(item)) for item in shown)
    name = html.escape(title(result))
    # Whatever a model or a file says, nothing of it runs and nothing is loaded.
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title><style>{_STYLE}</style></head><body>
<h1>{name}</h1>
{_scores(result)}
{"".join(f"<p>{html.escape(line)}</p>" for line in remarks(result))}
<h2>How it was measured</h2><dl>{_pairs(result.header)}</dl>
<h2>Items</h2>{left_out}
<p><label>Group <select id="group"><option value="">all</option>{options}</select></label>
<label><input type="checkbox" id="only"> failures only</label> <span id="shown"></span></p>
<div id="items">{articles}</div>
<p class="group">fastregion {html.escape(__version__)}</p>
<script>{_SCRIPT}</script></body></html>
"""


def _scores(result: Result) -> str:
    entries = result.table.values()
    columns = {
        "value": [number(entry.value) for entry in entries],
        "95 % interval": [interval(entry) for entry in entries],
        "spread over repeats": [
            "" if entry.spread is None else number(entry.spread) for entry in entries
        ],
        "items": ["" if entry.count is None else str(entry.count) for entry in entries],
        "": ["" if entry.higher_is_better else "0 is best" for entry in entries],
    }
    told = {head: cells for head, cells in columns.items() if any(cells)}
    heads = "".join(f'<th class="n">{html.escape(head)}</th>' for head in told)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in zip(result.table, *told.values(), strict=True)
    )
    return f'<div class="scroll"><table><tr><th>measure</th>{heads}</tr>{rows}</table></div>'


def _pairs(values: Mapping[str, Any]) -> str:
    return "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in values.items()
        if value not in (None, {})
    )


def _article(item: Item, result: Result, failure: bool, picture: str | None) -> str:
    found = result.items[item.id]
    reason = result.missing.get(item.id) or result.unjudged.get(item.id)
    said = (
        '<p class="none">no answer</p>'
        if found.text is None
        else f"<p>{html.escape(found.text) or '<span class=none>(empty)</span>'}</p>"
    )
    image = f'<img src="{picture}" alt="" loading="lazy">' if picture else ""
    why = f'<p class="none">{html.escape(reason)}</p>' if reason else ""
    said_of_it = {call: " | ".join(texts) for call, texts in found.answers.items()}
    details = "".join(
        f"<details{' open' if failure else ''}><summary>{what}</summary><dl>{_pairs(values)}</dl>"
        "</details>"
        for what, values in (("judge", said_of_it), ("numbers", found.numbers))
        if values
    )
    kind = ' class="failure"' if failure else ""
    return (
        f'<article{kind} data-group="{html.escape(item.group)}">{image}'
        f'<h3>{html.escape(item.id)} <span class="group">{html.escape(item.group)}</span></h3>'
        f"{said}{why}{details}</article>"
    )
