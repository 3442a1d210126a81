"""Several questions answered by one call of the reward."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


log = logging.getLogger(__name__)


class Unanswered(Exception):
    """The reward failed; the message says how, without its insides."""


class Miscounted(Exception):
    """The reward gave something else than one score for each picture."""


class Overloaded(Exception):
    """More questions wait than may."""


@dataclass(frozen=True)
class Question:
    """Pictures of one size, 8-bit, their prompts, and where the scores are awaited."""

    images: Tensor
    prompts: list[str]
    answer: asyncio.Future[Tensor]


class Batcher:
    """Collects questions for a moment and has them scored together, one call at a time.

    Args:
        score: pictures and prompts to scores.
        batch: pictures in one call.
        wait: seconds that the first question waits for others.
        waiting: questions that may wait.
        alone: whether every question has a call of its own, because pictures are compared.
    """

    def __init__(
        self,
        score: Callable[[Tensor, Sequence[str]], Tensor],
        batch: int,
        wait: float,
        waiting: int,
        alone: bool = False,
    ) -> None:
        self._score, self._batch, self._wait = score, batch, wait
        self._waiting, self._alone = waiting, alone
        self._questions: asyncio.Queue[Question] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def running(self, _: Any = None) -> AsyncIterator[None]:
        """Answer questions for as long as the context lasts."""
        self._task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @property
    def alive(self) -> bool:
        """Whether questions are being answered."""
        return self._task is not None and not self._task.done()

    async def ask(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Return the scores of pictures.

        Raises:
            Overloaded: if too many questions wait, or nobody answers any more.
        """
        if self._questions.qsize() >= self._waiting or not self.alive:
            raise Overloaded
        answer: asyncio.Future[Tensor] = asyncio.get_running_loop().create_future()
        await self._questions.put(Question(images, prompts, answer))
        return await answer

    async def _work(self) -> None:
        while True:
            questions = [await self._questions.get()]
            if self._questions.empty():
                await asyncio.sleep(self._wait)
            while not self._questions.empty() and self._room(questions):
                questions.append(self._questions.get_nowait())
            for alike in by_size(questions):
                await self._answer(alike)

    def _room(self, questions: list[Question]) -> bool:
        return not self._alone and sum(len(q.images) for q in questions) < self._batch

    async def _answer(self, questions: list[Question]) -> None:
        """Score questions whose pictures have one size, and wake who asked."""
        questions = [q for q in questions if not q.answer.done()]  # who asked may have gone
        if not questions:
            return
        scores = await asyncio.to_thread(self._scores, questions)
        if isinstance(scores, Exception):
            if len(questions) > 1:  # one bad question must not spoil its neighbours'
                for question in questions:
                    await self._answer([question])
                return
            _wake(questions[0].answer, scores)
            return
        start = 0
        for question in questions:
            _wake(question.answer, scores[start : start + len(question.images)])
            start += len(question.images)

    def _scores(self, questions: list[Question]) -> Tensor | Exception:
        """Return the scores, or what the reward raised: some errors do not survive a future."""
        import torch

        prompts = [p for q in questions for p in q.prompts]
        size = len(prompts) if self._alone else self._batch
        try:
            images = torch.cat([q.images for q in questions])
            with torch.no_grad():
                pieces = [
                    self._score(images[i : i + size].float() / 255, prompts[i : i + size])
                    for i in range(0, len(images), size)
                ]
            scores = torch.cat([torch.as_tensor(p).float().cpu() for p in pieces])
        except BaseException as error:  # whatever ends this thread ends no server
            log.exception("the reward failed")
            return Unanswered(type(error).__name__)
        if scores.shape != (len(images),):
            return Miscounted(f"shape {tuple(scores.shape)} for {len(images)} pictures")
        return scores


def by_size(questions: Sequence[Question]) -> list[list[Question]]:
    """Return questions in groups whose pictures have one height and width."""
    groups: dict[tuple[int, ...], list[Question]] = {}
    for question in questions:
        groups.setdefault(tuple(question.images.shape[1:]), []).append(question)
    return list(groups.values())


def _wake(answer: asyncio.Future[Tensor], result: Tensor | Exception) -> None:
    if answer.done():  # who asked has gone
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
