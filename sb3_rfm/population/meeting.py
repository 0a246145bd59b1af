"""
Models that learn side by side, each in a thread of its own, and meet where there is work for all.

One thread runs at a time: a member runs until it asks for something that is done for all together,
then the next one does. So each ``learn`` is Stable-Baselines3's own, with its callbacks, logger and
progress; and a member that stops or fails leaves the others alone.
"""

from collections.abc import Callable, Sequence
from threading import Semaphore, Thread
from typing import Any

Work = Callable[[], Any]


class Leave(BaseException):
    """Ends a member's thread, where the whole is broken off."""


class Meeting:
    """
    N threads that take turns.

    :param serve: {member: what it asks for} -> {member: the answer}, called in the thread of
        :meth:`run` each time that all the members that are left ask for something; who gets no
        answer goes on waiting
    """

    def __init__(self, serve: Callable[[dict[int, Any]], dict[int, Any]]) -> None:
        self.serve = serve
        self.turns: list[Semaphore] = []
        self.back = Semaphore(0)
        self.asked: dict[int, Any] = {}
        self.answers: dict[int, Any] = {}
        self.errors: dict[int, BaseException] = {}
        self.done: set[int] = set()
        self.broken_off = False

    def ask(self, member: int, request: Any) -> Any:
        """
        Ask for something, within a member's thread, and let the others run meanwhile.

        :param member: its number
        :param request: what is asked for
        :return: the answer
        """
        self.asked[member] = request
        self._give_back_turn(member)
        return self.answers.pop(member)

    def _give_back_turn(self, member: int) -> None:
        self.back.release()
        self.turns[member].acquire()
        if self.broken_off:
            raise Leave

    def run(self, works: Sequence[Work]) -> dict[int, BaseException]:
        """
        Run the members' work to its end.

        :param works: of each member
        :return: what ended those that failed
        """
        self.turns = [Semaphore(0) for _ in works]
        threads = [
            Thread(target=self._run_member, args=each, daemon=True) for each in enumerate(works)
        ]
        for thread in threads:
            thread.start()
        ready = left = list(range(len(works)))
        try:
            while left:
                for member in ready:
                    self._give_turn(member)
                left = [member for member in left if member not in self.done]
                self.answers = self.serve(self.asked) if left else {}
                ready = list(self.answers)
                for member in ready:
                    del self.asked[member]
        finally:
            self.broken_off = True
            for member in left:
                if member not in self.done:
                    self._give_turn(member)
            for thread in threads:
                thread.join()
        return self.errors

    def _give_turn(self, member: int) -> None:
        self.turns[member].release()
        self.back.acquire()

    def _run_member(self, member: int, work: Work) -> None:
        self.turns[member].acquire()
        try:
            if not self.broken_off:
                work()
        except Leave:
            pass
        except BaseException as error:
            self.errors[member] = error
        finally:
            self.done.add(member)
            self.asked.pop(member, None)
            self.back.release()
