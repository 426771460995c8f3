"""Who answers requests is known by it; nobody is called off because nothing came."""

import pytest

from media.keyframes import KeyframeRequests


class Sender:
    """Send frames in virtual time: keyframes by `period_s`, by request, or both."""

    def __init__(self, *, fps: float, period_s: float | None, answers: bool) -> None:
        self.requests = KeyframeRequests()
        self.now = 0.0
        self.fps, self.period_s, self.answers = fps, period_s, answers
        self.key_s: float | None = None
        self.is_asked = False

    def run(self, seconds: float) -> "Sender":
        end = self.now + seconds
        while self.now < end:
            is_due = self.period_s is not None and (
                self.key_s is None or self.now - self.key_s >= self.period_s - 1e-9
            )
            if self.key_s is None or is_due or (self.answers and self.is_asked):
                self.key_s, self.is_asked = self.now, False
                self.requests.came(self.now, 1 / self.fps)
            else:
                self.requests.ignored(self.now)
            if self.requests.wants_probe(self.now):
                self.requests.asked(self.now)
                self.is_asked = True
            self.now += 1 / self.fps
        return self

    def is_off_after(self, silence_s: float, *, reports: bool = True) -> bool:
        last = self.now
        for _ in range(int(silence_s)):
            self.now += 1
            self.requests.asked(self.now)
        return self.requests.is_off(self.now, last, self.now if reports else None)


@pytest.mark.parametrize("fps", [2, 5, 10, 15, 30])
def test_a_sender_that_answers_proves_it_in_seconds(fps: float) -> None:
    sender = Sender(fps=fps, period_s=None, answers=True).run(5)
    assert sender.requests.is_answering
    assert sender.is_off_after(5)


@pytest.mark.parametrize("fps", [2, 5, 15, 30])
@pytest.mark.parametrize("period_s", [0.1, 0.3, 0.5, 0.7, 1, 1.5, 2, 2.5, 3, 4, 10, 1000])
def test_a_period_is_never_taken_for_answers(fps: float, period_s: float) -> None:
    sender = Sender(fps=fps, period_s=period_s, answers=False).run(120)
    assert not sender.requests.is_answering
    assert not sender.is_off_after(60)


def test_a_sender_that_stops_answering_is_decoded_whole_again() -> None:
    sender = Sender(fps=15, period_s=None, answers=True).run(5)
    sender.answers = False
    for _ in range(3):
        sender.requests.asked(sender.now)
        sender.run(1)
    assert not sender.requests.is_answering


def test_a_network_that_is_silent_is_no_camera_that_is_off() -> None:
    sender = Sender(fps=15, period_s=None, answers=True).run(5)
    assert not sender.is_off_after(10, reports=False)


def test_a_picture_that_stands_still_and_answers_is_on() -> None:
    sender = Sender(fps=15, period_s=None, answers=True).run(5)
    last = sender.now
    for _ in range(30):
        sender.now += 1
        sender.requests.asked(sender.now)
        last = sender.now + 0.1
        sender.requests.came(last, 1.0)
        assert not sender.requests.is_off(sender.now + 0.5, last, sender.now)
