"""
Functions that go on side by side, each on a stack of its own (greenlets), and meet where there is
work for all.

One of them runs at a time, until it asks for something that is done for all together; then the next
one does. So each model's ``learn`` is Stable-Baselines3's own, with its callbacks, logger and
progress; and a member that stops or fails leaves the others alone.
"""

from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any

import torch as th
from greenlet import getcurrent, greenlet

Work = Callable[[], Any]


class Leave(BaseException):
    """Ends a member's work, where the whole is broken off."""


class Meeting:
    """
    N functions that take turns.

    :param serve: {member: what it asks for} -> {member: the answer}, called each time that all the
        members that are left ask for something; who gets no answer goes on waiting
    """

    def __init__(self, serve: Callable[[dict[int, Any]], dict[int, Any]]) -> None:
        self.serve = serve
        self.hub = getcurrent()
        self.asked: dict[int, Any] = {}
        self.answers: dict[int, Any] = {}
        self.errors: dict[int, Exception] = {}

    def ask(self, member: int, request: Any) -> Any:
        """
        Ask for something, within a member's work, and let the others run meanwhile.

        :param member: its number
        :param request: what is asked for
        :return: the answer
        """
        self.asked[member] = request
        with th.set_grad_enabled(True):  # the others', and after it this member's as it was
            self.hub.switch()
        return self.answers.pop(member)

    def run(self, works: Sequence[Work]) -> dict[int, Exception]:
        """
        Run the members' work to its end.

        :param works: of each member
        :return: what ended those that failed
        """
        self.hub = getcurrent()
        seats = [greenlet(partial(self._run_member, *each)) for each in enumerate(works)]
        for seat in seats:
            seat.gr_context = copy_context()
        ready = left = list(range(len(works)))
        try:
            while left:
                for member in ready:
                    seats[member].switch()
                left = [member for member in left if not seats[member].dead]
                self.answers = self.serve(self.asked) if left else {}
                ready = list(self.answers)
                for member in ready:
                    del self.asked[member]
        finally:
            for seat in seats:
                if not seat.dead:
                    seat.throw(Leave)
        return self.errors

    def _run_member(self, member: int, work: Work) -> None:
        try:
            work()
        except Leave:
            pass
        except Exception as error:
            self.errors[member] = error
        self.asked.pop(member, None)
