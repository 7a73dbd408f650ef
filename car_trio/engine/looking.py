"""What an action asks about large values of the state, found out before it is the action's turn.

A state may keep a large value as JSON. To decode it, to compare it and to show it in a message takes long enough for
others to notice, so it is done elsewhere, in a thread, and the answer is kept. The decision is taken in one stretch all
the same: an answer holds for the very value that was asked about; of another that stands there by then it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import Raw

from car_trio.engine.preconditions import Readable, is_about_content, problem_with, wrong_value
from car_trio.wire.proposals import Action, Precondition


class Question(NamedTuple):
    """A precondition, or an assertion, and the large value that it is about."""

    subject: Precondition | Action
    value: Raw

    def answer(self) -> str | None:
        return _answer(self.subject, self.value)


class Looks:
    """All that one execution asks. The subjects live as long as their plan, so they are known by identity."""

    def __init__(self, state: Readable) -> None:
        self._state = state
        self._answers: dict[int, tuple[Raw, str | None]] = {}

    def open_questions(self, action: Action) -> list[Question]:
        """What nobody has found out yet about large values."""
        subjects = [each for each in action.preconditions if is_about_content(each)]
        asked = [*_questions(subjects, self._state), *_questions(_assertions(action), self._state)]
        return [each for each in asked if self._known(each.subject, each.value) is None]

    def answer(self, questions: list[Question]) -> None:
        """Finds it out. For a thread: it reads nothing but the questions, and a set of a key cannot tear."""
        for each in questions:
            self._answers[id(each.subject)] = (each.value, each.answer())

    def problems(self, action: Action) -> Iterator[str]:
        """Why preconditions do not hold."""
        for each in action.preconditions:
            known = self._known(each, self._state.get(each.key))
            problem = problem_with(each, self._state) if known is None else known[1]
            if problem is not None:
                yield problem

    def wrong(self, action: Action, value: Any) -> str | None:
        """Why an assertion does not hold for this value; None when it does."""
        known = self._known(action, value)
        return _answer(action, value) if known is None else known[1]

    def _known(self, subject: Precondition | Action, value: Any) -> tuple[Raw, str | None] | None:
        known = self._answers.get(id(subject))
        return known if known is not None and known[0] is value else None


def _assertions(action: Action) -> list[Action]:
    return [action] if action.type == "assertion" else []


def _questions(subjects: list[Any], state: Readable) -> Iterator[Question]:
    for each in subjects:
        value = None if each.key is None else state.get(each.key)
        if isinstance(value, Raw):
            yield Question(each, value)


def _answer(subject: Precondition | Action, value: Any) -> str | None:
    if isinstance(subject, Precondition):
        return problem_with(subject, {subject.key: value})
    return wrong_value(subject.key, value, subject.parameters.get("expected"))
