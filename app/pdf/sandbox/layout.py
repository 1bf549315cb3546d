"""Reading order: from the spans of a page to its lines.

Spans are gathered into rows; rows that share a gap form a run, which is either columns of prose (read
one after the other) or a table (read row by row, cells separated by tabs).
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from app.pdf.pages import Box, Line

# Ends a line whose last word goes on in the next one.
HYPHEN = "\u0002"
INFINITY = float("inf")
# Of the line's height: neighbours nearer than this are one word (a superscript, a kerned piece).
WORD_GAP = 0.12
# Of the line's height: a wider gap separates cells or columns; justified prose stays below.
CELL_GAP = 1.1
# Times the height of the line.
DROP_CAP = 1.4
MOST_DROP_CAPS = 50
LETTERS_OF_PROSE = 16
LETTERS_OF_A_LIST = 6
DEEPEST_NESTING = 4
# In tables of numbers a currency or a closing bracket often has a column of its own.
_LONE_SIGN = re.compile(r"(?<![^\t])([$€£¥(])\t|\t([)%])(?![^\t])")
# Of Hebrew, Arabic and their neighbours, as a regular expression.
RTL_LETTER = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]"
_RTL = re.compile(RTL_LETTER)


class Span(NamedTuple):
    """A piece of text drawn in one go, in points from the top left of the page.

    With a space in front it is a word of its own, however near the one before it is.
    """

    text: str
    left: float
    top: float
    right: float
    bottom: float
    is_hidden: bool = False
    size: float = 0.0
    """Of its letters, in points."""
    is_bold: bool = False


@dataclass(frozen=True, slots=True)
class StyledLine(Line):
    """A line whose looks are known."""

    size: float = 0.0
    is_bold: bool = False


class Cell(NamedTuple):
    """Neighbouring spans of a row; `order` is the place of its first span in the file."""

    text: str
    box: Box
    order: int
    size: float
    is_bold: bool


# A span and its place in the file.
Placed = tuple[int, Span]
Row = list[Cell]
Gap = tuple[float, float]


def lines_of(spans: Sequence[Span]) -> list[Line]:
    """The lines of a page in reading order; hidden and sideways text comes last."""
    upright: list[Placed] = []
    sideways: list[Placed] = []
    hidden: list[Placed] = []
    for placed in enumerate(spans):
        span = placed[1]
        group = hidden if span.is_hidden else sideways if _is_sideways(span) else upright
        group.append(placed)
    upright = _with_drop_caps(upright)
    is_rtl = _is_mostly_rtl(upright)
    lines: list[Line] = [_line(row, is_rtl) for row in _in_reading_order(_rows(upright), is_rtl)]
    lines += [
        StyledLine(span.text.lstrip(), span[1:5], size=span.size, is_bold=span.is_bold)
        for _, span in sideways
    ]
    lines += [_line(row, is_rtl, is_hidden=True) for row in _rows(hidden)]
    return lines


def _with_drop_caps(spans: list[Placed]) -> list[Placed]:
    """Each large first letter of a paragraph as part of the first of the lines beside it."""
    caps = [
        placed for placed in spans if len(placed[1].text.strip()) == 1 and placed[1].text.strip().isupper()
    ]
    for cap in caps[:MOST_DROP_CAPS]:
        beside = [placed for placed in spans if _is_drop_cap(cap[1], placed[1])]
        if beside:
            order, first = min(beside, key=lambda placed: placed[1].top)
            left, top = cap[1].left, min(cap[1].top, first.top)
            whole = first._replace(text=cap[1].text.strip() + first.text.lstrip(), left=left, top=top)
            spans = [(order, whole) if one[1] is first else one for one in spans if one is not cap]
    return spans


def _is_drop_cap(cap: Span, first: Span) -> bool:
    height = first.bottom - first.top
    return (
        cap.bottom - cap.top > DROP_CAP * height
        and cap.bottom > first.bottom + height / 2
        and abs(cap.top - first.top) < 0.9 * height
        and -height / 2 < first.left - cap.right < height
        and first.text.lstrip()[:1].isalpha()
    )


def _is_sideways(span: Span) -> bool:
    return len(span.text) > 3 and span.bottom - span.top > 2.5 * (span.right - span.left)


def _is_mostly_rtl(spans: Iterable[Placed]) -> bool:
    text = "".join([span.text for _, span in spans])
    rtl = 0 if text.isascii() else len(_RTL.findall(text))
    return rtl > 0 and 2 * rtl > sum(map(str.isalpha, text))


def _rows(spans: list[Placed]) -> list[Row]:
    """Spans on one base line, from top to bottom, each row from left to right."""
    rows: list[list[Placed]] = []
    anchor = anchor_height = 0.0
    for middle, order, span in sorted([(span.top + span.bottom, order, span) for order, span in spans]):
        height = span.bottom - span.top
        low, high = (height, anchor_height) if height < anchor_height else (anchor_height, height)
        # Middles close enough for a superscript, too far for a drop cap and its third line.
        if rows and middle - anchor < 1.2 * min(high, 2 * low):
            rows[-1].append((order, span))
            if 2 * anchor_height > height > anchor_height:
                anchor, anchor_height = middle, height
        else:
            rows.append([(order, span)])
            anchor, anchor_height = middle, height
    return [_cells(row) for row in rows]


def _cells(row: list[Placed]) -> Row:
    if len(row) == 1:
        return [_cell(row)]
    cells: list[list[Placed]] = []
    end, end_height = -INFINITY, 0.0
    for left, order, span in sorted([(span.left, order, span) for order, span in row]):
        height = span.bottom - span.top
        if not cells or left - end > CELL_GAP * max(end_height, height):
            cells.append([])
        cells[-1].append((order, span))
        if span.right > end:
            end, end_height = span.right, height
    return [_cell(cell) for cell in cells]


def _cell(spans: list[Placed]) -> Cell:
    if len(spans) == 1:
        ((order, span),) = spans
        return Cell(span.text.lstrip(), span[1:5], order, span.size, span.is_bold)
    box = around([span[1:5] for _, span in spans])
    order = min([order for order, _ in spans])
    if _is_mostly_rtl(spans):
        spans = spans[::-1]
    text = spans[0][1].text.lstrip()
    for (_, before), (_, span) in pairwise(spans):
        gap = max(span.left - before.right, before.left - span.right)
        height = max(before.bottom - before.top, span.bottom - span.top)
        text += " " + span.text.lstrip() if gap >= WORD_GAP * height or span.text[0] == " " else span.text
    return Cell(
        text, box, order, max([span.size for _, span in spans]), all(span.is_bold for _, span in spans)
    )


def around(boxes: Iterable[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def turning_back(turned: int, width: float, height: float) -> Callable[..., Box]:
    """From places on a page of this size to those before it was turned clockwise."""
    return {
        90: lambda left, top, right, bottom: (top, width - right, bottom, width - left),
        180: lambda left, top, right, bottom: (width - right, height - bottom, width - left, height - top),
        270: lambda left, top, right, bottom: (height - bottom, left, height - top, right),
    }[turned]


def _in_reading_order(rows: list[Row], is_rtl: bool, depth: int = 0) -> Iterator[Row]:
    for run, gaps in _runs(rows):
        columns = _columns(run, gaps) if gaps and depth < DEEPEST_NESTING else []
        if columns and _are_prose(columns, run):
            for column in reversed(columns) if is_rtl else columns:
                yield from _in_reading_order(column, is_rtl, depth + 1)
        else:
            yield from run


def _runs(rows: list[Row]) -> Iterator[tuple[list[Row], list[Gap]]]:
    """Consecutive rows, with the gaps that go through all of them and have text on both sides."""
    run: list[Row] = []
    free: list[Gap] = [(-INFINITY, INFINITY)]
    for row in rows:
        narrowed = _narrowed(free, row)
        ends_gaps = len(free) > 2 and len(narrowed) <= 2
        starts_gaps = len(row) > 1 and len(narrowed) <= 2
        if run and (ends_gaps or starts_gaps):
            yield run, free[1:-1]
            run, narrowed = [], _narrowed([(-INFINITY, INFINITY)], row)
        run.append(row)
        free = narrowed
    if run:
        yield run, free[1:-1]


def _narrowed(free: list[Gap], row: Row) -> list[Gap]:
    """What of the free intervals the row leaves free; the outermost two always remain."""
    if len(row) == 1 and len(free) == 2:  # prose: a line above or below others
        ((_, high), (low, _)), (left, _, right, _) = free, row[0].box
        if left <= low and right >= high:
            return [(-INFINITY, min(left, high)), (max(right, low), INFINITY)]
    smallest = CELL_GAP * 0.7 * max([cell.box[3] - cell.box[1] for cell in row])
    starts = [-INFINITY, *[cell.box[2] for cell in row]]
    ends = [*[cell.box[0] for cell in row], INFINITY]
    narrowed = []
    for low, high in free:
        for between in range(bisect_right(ends, low), len(ends)):
            start, end = max(low, starts[between]), min(high, ends[between])
            if end - start > smallest:
                narrowed.append((start, end))
            if ends[between] >= high:
                break
    return narrowed


def _columns(run: list[Row], gaps: list[Gap]) -> list[list[Row]]:
    columns: list[list[Row]] = [[] for _ in range(len(gaps) + 1)]
    ends = [end for _, end in gaps]
    for row in run:
        parts: list[Row] = [[] for _ in columns]
        for cell in row:
            parts[bisect_right(ends, cell.box[0])].append(cell)
        for column, part in zip(columns, parts, strict=True):
            if part:
                column.append(part)
    return columns


def _are_prose(columns: list[list[Row]], run: list[Row]) -> bool:
    """Columns of prose are full of letters; what was also written column by column may be shorter."""
    letters = [median(_letters(row) for row in column) for column in columns]
    if min(len(column) for column in columns) < 2:
        return False
    if _is_written_in_columns(columns):
        return min(letters) >= LETTERS_OF_A_LIST
    is_long = sum(len(row) > 1 for row in run) >= 4 or len(run) >= 8
    return is_long and min(letters) >= LETTERS_OF_PROSE and all(_is_dense(column) for column in columns)


def _is_written_in_columns(columns: list[list[Row]]) -> bool:
    orders = [[cell.order for row in column for cell in row] for column in columns]
    return all(max(one) < min(other) for one, other in pairwise(orders))


def _letters(row: Row) -> int:
    return sum(sum(map(str.isalpha, cell.text)) for cell in row)


def _is_dense(column: list[Row]) -> bool:
    """Most lines fill most of the column, and follow each other closely."""
    boxes = [around(cell.box for cell in row) for row in column]
    left, top, right, bottom = around(boxes)
    filled = median(box[2] - box[0] for box in boxes) / max(right - left, 1)
    pitch = (bottom - top) / len(boxes)
    return filled > 0.55 and pitch < 2.2 * median(box[3] - box[1] for box in boxes)


def _line(row: Row, is_rtl: bool, is_hidden: bool = False) -> Line:
    if len(row) == 1:
        (cell,) = row
        return StyledLine(cell.text, cell.box, is_hidden, cell.size, cell.is_bold)
    cells = row[::-1] if is_rtl else row
    return StyledLine(
        _LONE_SIGN.sub(r"\1\2", "\t".join([cell.text for cell in cells])),
        around([cell.box for cell in row]),
        is_hidden,
        max([cell.size for cell in row]),
        all(cell.is_bold for cell in row),
    )
