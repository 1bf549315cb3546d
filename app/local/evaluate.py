"""How well a service finds pages that people know: questions with known pages, asked over HTTP and scored.

A search gives a ranking of pages: hit by hit, each page from `page_start` to `page_end` that was not there
before. A question is answered when one of its pages, of any of its documents, is among the first k of them.
Documents are known by their file names, so two documents of one name count as one.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, median, stdev
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, Field, PositiveInt, TypeAdapter, ValidationError, computed_field

from app.local.client import Client, RequestRefused
from app.local.failures import Failure

HITS = 100  # asked for by question, the most the API gives: enough for 10 pages and 5 documents
DOCUMENTS = 5  # the k of document hit@k
T = TypeVar("T")
_Z = NormalDist().inv_cdf(0.975)  # of a 95 % interval

Pages = Annotated[dict[str, Annotated[list[PositiveInt], Field(min_length=1)]], Field(min_length=1)]


class NotEvaluable(Failure):
    """A file or the service has not what an evaluation needs; the message says what to do."""


class Question(BaseModel):
    """A line of the questions file. `pages` are those that answer it, by file name, counted from 1."""

    id: Annotated[str, Field(min_length=1)]
    question: Annotated[str, Field(min_length=1)]
    pages: Pages


@dataclass(frozen=True, slots=True)
class Case:
    """A question to ask. `pages` has the service's file names.

    `document` is the only one to search, by its name in the questions file; None is for all.
    """

    id: str
    question: str
    pages: Mapping[str, Sequence[int]]
    document: str | None = None

    @property
    def key(self) -> tuple[str, str | None]:
        return self.id, self.document


class Outcome(BaseModel):
    """What a search brought. Ranks count from 1 and are null when nothing right is among the hits."""

    id: str
    document: str | None
    question: str
    pages: Pages
    found: list[tuple[str, int]] = Field(description="The first k pages of the ranking.")
    rank: PositiveInt | None = Field(description="Of the first right page among distinct pages.")
    document_rank: PositiveInt | None = Field(
        description="Of the first right document among distinct documents."
    )
    seconds: float

    @property
    def key(self) -> tuple[str, str | None]:
        return self.id, self.document


class Score(BaseModel):
    """A mean over questions, with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of_hits(cls, hits: Sequence[bool]) -> Self:
        """Wilson's interval of a rate."""
        count, rate = len(hits), fmean(hits)
        centre = (rate + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
        half = _Z * math.sqrt(rate * (1 - rate) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
        return cls(value=rate, low=max(0, centre - half), high=min(1, centre + half))

    @classmethod
    def of_values(cls, values: Sequence[float]) -> Self:
        """The normal interval of a mean of values from 0 to 1."""
        mean = fmean(values)
        half = _Z * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 1
        return cls(value=mean, low=max(0, mean - half), high=min(1, mean + half))


class Evaluation(BaseModel):
    """A result file."""

    mode: str
    k: PositiveInt
    collection: str | None
    within: bool = Field(description="Each question was asked within each of its documents.")
    left_out: list[str] = Field(description="Questions of which the service has no document.")
    outcomes: Annotated[list[Outcome], Field(min_length=1)]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def scores(self) -> dict[str, Score]:
        ranks = [outcome.rank or math.inf for outcome in self.outcomes]
        scores = {
            f"page hit@{k}": Score.of_hits([rank <= k for rank in ranks]) for k in dict.fromkeys((1, self.k))
        }
        scores[f"page MRR@{self.k}"] = Score.of_values([1 / rank if rank <= self.k else 0 for rank in ranks])
        if not self.within:
            found = [(outcome.document_rank or math.inf) <= DOCUMENTS for outcome in self.outcomes]
            scores[f"document hit@{DOCUMENTS}"] = Score.of_hits(found)
        return scores

    @computed_field  # type: ignore[prop-decorator]
    @property
    def seconds(self) -> dict[str, float]:
        """Of a search, as the client sees it; the p95 is the nearest rank."""
        seconds = sorted(outcome.seconds for outcome in self.outcomes)
        return {"median": median(seconds), "p95": seconds[math.ceil(0.95 * len(seconds)) - 1]}

    @property
    def missed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not is_hit(outcome, self.k)]


@dataclass(frozen=True, slots=True)
class Difference:
    """In how many questions a search is better and worse than another."""

    better: int
    worse: int
    equal: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, float]]) -> Self:
        """Of (value now, value then); more is better."""
        signs = [(now > then) - (now < then) for now, then in pairs]
        return cls(signs.count(1), signs.count(-1), signs.count(0))

    @property
    def p(self) -> float:
        """How likely so uneven a split is if none is better: the exact two-sided sign test.

        For hits and misses it is McNemar's exact test.
        """
        changed = self.better + self.worse
        tail = sum(math.comb(changed, i) for i in range(min(self.better, self.worse) + 1))
        return min(1.0, float(2 * tail / 2**changed))


def is_hit(outcome: Outcome, k: int) -> bool:
    return outcome.rank is not None and outcome.rank <= k


def ranked_pages(hits: Iterable[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Distinct (file name, page) in the order of the hits, those of one hit in the order of the document."""
    pages = (
        (hit["filename"], page) for hit in hits for page in range(hit["page_start"], hit["page_end"] + 1)
    )
    return list(dict.fromkeys(pages))


def outcome_of(case: Case, hits: Sequence[Mapping[str, Any]], *, k: int, seconds: float) -> Outcome:
    pages = ranked_pages(hits)
    documents = list(dict.fromkeys(name for name, _page in pages))
    return Outcome(
        id=case.id,
        document=case.document,
        question=case.question,
        pages={name: list(gold) for name, gold in case.pages.items()},
        found=pages[:k],
        rank=_first(pages, lambda page: page[1] in case.pages.get(page[0], ())),
        document_rank=_first(documents, lambda name: name in case.pages),
        seconds=seconds,
    )


def compare(now: Evaluation, then: Evaluation) -> tuple[Difference, Difference]:
    """By hit@k and by rank, over the questions that both asked. Raises NotEvaluable."""
    if (now.k, now.within) != (then.k, then.within):
        raise NotEvaluable("The earlier result cannot be compared: it was made with another --k or --within.")
    earlier = {outcome.key: outcome for outcome in then.outcomes}
    pairs = [(outcome, earlier[outcome.key]) for outcome in now.outcomes if outcome.key in earlier]
    hits = ((is_hit(one, now.k), is_hit(other, now.k)) for one, other in pairs)
    ranks = ((-(one.rank or math.inf), -(other.rank or math.inf)) for one, other in pairs)
    return Difference.of(hits), Difference.of(ranks)


def cases_of(
    question: Question, names: Mapping[str, str], held: Iterable[str], *, within: bool
) -> list[Case]:
    """What to ask of a service that has files called `held`: one case, or one a document with `within`."""
    there = {name: names.get(name, name) for name in question.pages if names.get(name, name) in held}
    if within:
        return [
            Case(question.id, question.question, {called: question.pages[name]}, document=name)
            for name, called in there.items()
        ]
    pages = {called: question.pages[name] for name, called in there.items()}
    return [Case(question.id, question.question, pages)] if pages else []


def read_questions(path: Path) -> list[Question]:
    """Raises NotEvaluable, with the number of the line."""
    questions: dict[str, Question] = {}
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        question = _valid(Question, line, f"{path}, line {number}")
        if question.id in questions:
            raise NotEvaluable(f"{path}, line {number}: the id {question.id} was used before.")
        questions[question.id] = question
    if not questions:
        raise NotEvaluable(f"{path} has no questions: write one JSON object a line.")
    return list(questions.values())


def read_names(path: Path) -> dict[str, str]:
    """The service's names of files, by those of the questions. Raises NotEvaluable."""
    names = _valid(dict[str, str], _text(path), str(path))
    if len(set(names.values())) < len(names):
        raise NotEvaluable(f"{path} gives one name to several files.")
    return names


def read_evaluation(path: Path) -> Evaluation:
    """Raises NotEvaluable."""
    return _valid(Evaluation, _text(path), str(path))


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Raises NotEvaluable."""
    try:
        path.write_text(evaluation.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise NotEvaluable(f"{path} cannot be written: {error}.") from error


async def evaluate(
    client: Client,
    questions: Iterable[Question],
    *,
    names: Mapping[str, str],
    request: Mapping[str, Any],
    k: int,
    within: bool,
    watch: Callable[[list[Case]], Iterable[Case]],
) -> Evaluation:
    """Ask one question after the other; `watch` passes the cases on and may show how far it is.

    `request` has what all searches have in common, such as the mode. Raises NotEvaluable.
    """
    ids = await _documents(client, request.get("collection"))
    cases_by_id = {one.id: cases_of(one, names, ids, within=within) for one in questions}
    cases = [case for some in cases_by_id.values() for case in some]
    if not cases:
        raise NotEvaluable(
            "The service has none of the documents that the questions name. Ingest them, "
            "or say with --names what they are called there."
        )
    return Evaluation(
        mode=request["mode"],
        k=k,
        collection=request.get("collection"),
        within=within,
        left_out=[name for name, some in cases_by_id.items() if not some],
        outcomes=[await _ask(client, case, ids, request=request, k=k) for case in watch(cases)],
    )


async def _documents(client: Client, collection: str | None) -> dict[str, list[str]]:
    """Ids of the documents that can be searched, by file name."""
    ids: defaultdict[str, list[str]] = defaultdict(list)
    filters = {} if collection is None else {"collection": collection}
    async for document in client.documents(status="ready", limit=500, **filters):
        ids[document["filename"]].append(document["document_id"])
    return dict(ids)


async def _ask(
    client: Client, case: Case, ids: Mapping[str, list[str]], *, request: Mapping[str, Any], k: int
) -> Outcome:
    scope = (
        {} if case.document is None else {"document_ids": [one for name in case.pages for one in ids[name]]}
    )
    began = time.perf_counter()
    try:
        answer = await client.search({**request, **scope, "query": case.question, "limit": HITS})
    except RequestRefused as refusal:
        raise NotEvaluable(f"Question {case.id} was refused: {refusal}") from refusal
    return outcome_of(case, answer["data"], k=k, seconds=time.perf_counter() - began)


def _first(items: Iterable[T], is_right: Callable[[T], bool]) -> int | None:
    return next((rank for rank, item in enumerate(items, start=1) if is_right(item)), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotEvaluable(f"{path} cannot be read: {error}.") from error


def _valid(kind: type[T], text: str, where: str) -> T:
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise NotEvaluable(f"{where}: {field + ': ' if field else ''}{fault['msg']}.") from error
