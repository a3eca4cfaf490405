"""report.html: what a curation did, as one file that opens without a network."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ldm.curation.balance import rare_words, word_counts
from ldm.curation.captions import long_captions
from ldm.curation.clusters import NOISE
from ldm.curation.duplicates import RULE
from ldm.curation.gaussians import distances_between
from ldm.curation.pipeline import Curation, agreements
from ldm.util.images import ImageError, read_image

SHEET = 8  # nearest and farthest pictures of each cluster
PAIRS = 48  # duplicates shown
POINTS, HOVERED = 4000, 500  # of the map, and those of them with a picture
SIDE = 96
BLOB = 0.6  # share of the pictures in one cluster above which the report says that clustering tells little
COLOURS = ("#3b6fb6", "#c8553d", "#4a9a5b", "#8a5fa8", "#c79a2b", "#3a9aa0", "#b5537f", "#6b7280")
STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}table{border-collapse:collapse}td,th{padding:.15rem .7rem;text-align:right}
td:first-child,th:first-child{text-align:left}tr+tr td{border-top:1px solid var(--line)}
.wide{overflow-x:auto}.row{display:flex;flex-wrap:wrap;gap:6px}.row img,.pair img{height:96px;display:block}
.pairs{display:flex;flex-wrap:wrap;gap:12px}.pair{border:1px solid var(--line);padding:6px;border-radius:4px;font-size:12px}
.pair div{display:flex;gap:4px}.pair p{margin:.3rem 0 0;max-width:220px;overflow-wrap:anywhere}
.note{opacity:.75;font-size:.9rem;margin:.3rem 0}.bar{background:#3b6fb6;height:.7rem;display:inline-block}
svg{background:var(--soft);width:100%;height:auto}circle:hover{stroke:currentColor;stroke-width:2}
#tip{position:fixed;pointer-events:none;background:Canvas;border:1px solid var(--line);padding:4px;font-size:12px;display:none}
"""
SCRIPT = """
const tip=document.getElementById('tip'),pictures=JSON.parse(document.getElementById('pictures').textContent);
for(const c of document.querySelectorAll('circle')){
 c.addEventListener('mousemove',e=>{const p=pictures[c.dataset.i];tip.replaceChildren();
  if(p){const i=document.createElement('img');i.src=p;tip.append(i)}
  const t=document.createElement('div');t.textContent=c.dataset.n;tip.append(t);
  tip.style.display='block';tip.style.left=Math.min(e.clientX+12,innerWidth-160)+'px';tip.style.top=(e.clientY+12)+'px'});
 c.addEventListener('mouseleave',()=>tip.style.display='none')}
"""


def report_page(curation: Curation, tower: str, command: str) -> str:
    """The page as HTML.

    Args:
        tower: name of what embedded the pictures.
        command: the command line, which is shown.
    """
    parts = [
        "<h1>Curated pictures</h1>",
        f'<p class="note">{_text(command)}<br>Embedded by {_text(tower)}.</p>',
        _stages(curation),
        _reasons(curation),
        _duplicates(curation),
        _clusters(curation),
        "".join(f"<p>{_text(sentence)}.</p>" for sentence in agreements(curation)),
        _map(curation),
        _distances(curation),
        _coverage(curation),
        _captions(curation),
        "<h2>Options</h2>",
        f"<pre>{_text(curation.options.to_yaml())}</pre>",
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Curated pictures</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _stages(curation: Curation) -> str:
    total = len(curation.pictures)
    rows = [
        f'<tr><td>{_text(stage)}</td><td>{left}</td><td style="text-align:left;width:300px">'
        f'<span class="bar" style="width:{100 * left / max(1, total):.1f}%"></span></td></tr>'
        for stage, left in curation.stages
    ]
    splits = Counter(curation.pictures[row].split for row in curation.kept)
    sentence = ", ".join(f"{count} {split}" for split, count in splits.items())
    return f"<h2>Pictures after each stage</h2><table>{''.join(rows)}</table><p>In the set: {sentence}.</p>"


def _reasons(curation: Curation) -> str:
    counts = Counter(_kind(why.reason) for why in curation.removed.values())
    return _table("Removed, by reason", ("reason", "pictures"), counts.most_common()) if counts else ""


def _duplicates(curation: Curation) -> str:
    if not curation.duplicates:
        return "<h2>Duplicates</h2><p>None were found.</p>"
    options = curation.options
    removed = [(row, why) for row, why in sorted(curation.removed.items()) if why.keeper >= 0]
    kinds = Counter(pair.kind for pair in curation.duplicates)
    shown = _spread([*removed], PAIRS)
    cells = [
        f'<div class="pair"><div>{_image(curation, why.keeper)}{_image(curation, row)}</div>'
        f"<p>{_text(why.reason)}<br>kept {_text(curation.pictures[why.keeper].name)}<br>"
        f"not {_text(curation.pictures[row].name)}</p></div>"
        for row, why in shown
    ]
    return (
        "<h2>Duplicates</h2>"
        f"<p>Pairs: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}. Near means at most "
        f"{options.max_hash_distance} of 64 bits of the perceptual hash and a cosine of at least {options.min_cosine:g}; a crop "
        f"correlates with its place by at least {options.min_crop_correlation:g}. Kept of a group: {RULE}. "
        f"{len(shown)} of {len(removed)} removals are shown, the kept picture on the left.</p>"
        f'<div class="pairs">{"".join(cells)}</div>'
    )


def _clusters(curation: Curation) -> str:
    clusters = curation.clusters
    if clusters is None:
        return ""
    parts = [f"<h2>Clusters</h2><p>{_text(clusters.method)}.</p>"]
    if clusters.silhouettes:
        tried = ", ".join(f"{k}: {value:.3f}" for k, value in clusters.silhouettes.items())
        parts.append(f'<p class="note">Silhouettes by number of clusters: {tried}.</p>')
    counts = np.bincount(clusters.labels[clusters.labels != NOISE])
    if len(counts) > 1 and counts.max() > BLOB * counts.sum():
        parts.append(
            f"<p><strong>{_text(curation.names[int(counts.argmax())])} holds {counts.max() / counts.sum():.0%} of them: that "
            "groups little. Give --centre, a number of --clusters, or another --tower.</strong></p>"
        )
    for cluster, name in enumerate(curation.names):
        members = curation.clustered[clusters.members(cluster)].tolist()
        near, far = members[:SHEET], members[SHEET:][-SHEET:]
        parts.append(f"<h3>{_text(name)}: {len(members)} pictures</h3>")
        parts.append(f'<div class="row">{"".join(_image(curation, row) for row in near)}</div>')
        if far:
            farthest = "".join(_image(curation, row) for row in far)
            parts.append(f'<p class="note">Farthest from the centre:</p><div class="row">{farthest}</div>')
    if clusters.noise_share:
        parts.append(f"<p>{clusters.noise_share:.1%} of the pictures belong to no cluster (noise).</p>")
    return "".join(parts)


def _map(curation: Curation) -> str:
    """The two main components of the embeddings, a point per picture, coloured by cluster."""
    rows = _spread(curation.kept, POINTS)
    if len(rows) < 3:
        return ""
    vectors = curation.records["embedding"][rows].astype(np.float32)
    vectors = vectors - vectors.mean(0)
    values, axes = np.linalg.eigh(vectors.T @ vectors)
    places = vectors @ axes[:, -2:][:, ::-1]
    share = values[-2:].sum() / max(values.sum(), 1e-12)
    low, high = np.quantile(places, (0.005, 0.995), axis=0)
    places = ((places - low) / np.maximum(high - low, 1e-9)).clip(0, 1)
    label_of = {}
    if curation.clusters is not None:
        label_of = dict(zip(curation.clustered.tolist(), curation.clusters.labels.tolist()))
    names = curation.cluster_names()
    hovered = set(_spread(rows, HOVERED))
    pictures = {str(row): source for row in rows if row in hovered and (source := _source(curation, row, 64))}
    circles = "".join(
        f'<circle cx="{20 + 960 * x:.1f}" cy="{20 + 560 * y:.1f}" r="4" fill="{_colour(label_of.get(row, NOISE))}" '
        f'fill-opacity=".7" data-i="{row}" data-n="{_text(_point_name(curation, names, row))}"/>'
        for row, (x, y) in zip(rows, places)
    )
    data = json.dumps(pictures).replace("</", "<\\/")
    return (
        f"<h2>Map</h2><p>The two main components of the embeddings ({share:.0%} of their variance), {len(rows)} of "
        f"{len(curation.kept)} pictures, coloured by cluster; point at one to see it.</p>"
        f'<svg viewBox="0 0 1000 600" role="img" aria-label="Map of the pictures">{circles}</svg><div id="tip"></div>'
        f'<script type="application/json" id="pictures">{data}</script><script>{SCRIPT}</script>'
    )


def _point_name(curation: Curation, names: dict[int, str], row: int) -> str:
    name = curation.pictures[row].name
    return f"{name} ({names[row]})" if row in names else name


def _distances(curation: Curation) -> str:
    if curation.clusters is None or len(curation.names) < 2:
        return ""
    kept, labels = set(curation.kept), curation.clusters.labels
    groups = {
        name: np.array([row for row in curation.clustered[labels == cluster].tolist() if row in kept], np.int64)
        for cluster, name in enumerate(curation.names)
    }
    names, table = distances_between(curation.records["embedding"], groups)
    rows = [(name, *(f"{value:.3f}" for value in line)) for name, line in zip(names, table)]
    note = (
        '<p class="note">Wasserstein-2 distance of Gaussians with diagonal covariances, of normalised embeddings.</p>'
    )
    return _table("Distances between clusters", ("", *names), rows, note)


def _coverage(curation: Curation) -> str:
    before = word_counts(curation.pictures, range(len(curation.pictures)))
    after = word_counts(curation.pictures, curation.kept)
    if not before:
        return ""
    rare = rare_words(Counter({word: after[word] for word in before}), curation.options.rare)
    note = f"<p>{sum(after[word] > 0 for word in before)} of {len(before)} words are still shown by some picture.</p>"
    if rare:
        named = ", ".join(f"{word} ({after[word]})" for word in rare[:60])
        note += (
            f"<p>In fewer than {curation.options.rare} pictures: {_text(named)}{', ...' if len(rare) > 60 else ''}.</p>"
        )
    rows = [(word, count, after[word], f"{after[word] / count:.0%}") for word, count in before.most_common(60)]
    return _table("Coverage of words", ("word", "pictures before", "after", "kept"), rows, note)


def _captions(curation: Curation) -> str:
    with_text = {row: text for row, text in curation.captions.items() if text}
    if not with_text:
        return ""
    too_long = long_captions(with_text, curation.options.max_tokens)
    sentence = f"{len(with_text)} of {len(curation.kept)} pictures have a caption. "
    sentence += f"{len(too_long)} are longer than {curation.options.max_tokens} tokens, beyond which CLIP reads nothing"
    worst = sorted(too_long, key=lambda row: -too_long[row])[:10]
    rows = [(curation.pictures[row].name, too_long[row]) for row in worst]
    page = f"<h2>Captions</h2><p>{sentence}.</p>"
    return page + (_table("", ("longest", "tokens"), rows) if rows else "")


# Pieces --------------------------------------------------------------------------------------------------------------


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence], note: str = "") -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    heading = f"<h2>{_text(title)}</h2>" if title else ""
    return f'{heading}{note}<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _image(curation: Curation, row: int) -> str:
    name = _text(curation.pictures[row].name)
    source = _source(curation, row, SIDE)
    return f'<img src="{source}" alt="{name}" title="{name}">' if source else f"<span>{name} (cannot be read)</span>"


def _source(curation: Curation, row: int, side: int) -> str | None:
    """A small copy of the picture as a data URL."""
    try:
        image = read_image(curation.pictures[row].path)
    except ImageError:
        return None
    image.thumbnail((2 * side, side), Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _spread(items: Sequence, count: int) -> list:
    """At most `count` of the items, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int).tolist()]


def _kind(reason: str) -> str:
    """A reason without its numbers."""
    kind = reason.partition(" (")[0].partition(":")[0]
    return kind.partition(",")[0].rstrip("0123456789.e+- ") if "," in kind else kind


def _colour(label: int) -> str:
    return "#999" if label == NOISE else COLOURS[label % len(COLOURS)]


def _text(value: object) -> str:
    return html.escape(str(value)).encode("utf-8", "replace").decode()
