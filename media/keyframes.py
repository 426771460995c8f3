"""Whether a sender answers requests for keyframes, and whether it shows anything at all.

Nothing in RTP tells a camera that is switched off from a picture that stands still. Who answers
requests tells it himself: a track that is alive sends the picture again. Who never answered is
believed to stand still. Pure logic, owned by the video uplink.
"""

SHORT_S = 0.5
"""After a keyframe; no sender of periodic keyframes sends the next within this and the answer."""
LONG_S = 2.4
"""After the next one; who sends keyframes in a shorter period shows it by then."""
ANSWER_S = 0.5
"""Within which a request is answered, the sender's frame interval aside."""
LATE_S = 0.6
"""A probe that is later than this proves nothing, but brings the keyframe to count from."""
RETRY_S = 1.0
MAX_UNANSWERED = 3
MAX_IGNORED = 2
REPEAT_S = 1.0
REPORT_S = 3.0
"""A sender reports about each second; without reports it is the network that is silent."""


class KeyframeRequests:
    """Learn from when keyframes were asked for and when they came."""

    def __init__(self) -> None:
        self.is_answering = False
        """The sender has proven that its keyframes come by request."""
        self.unanswered = 0
        """Requests in a row, the latest included, that no keyframe followed."""
        self._asked_s: float | None = None
        self._key_s: float | None = None
        self._stage = 0
        self._retry_s = 0.0

    def wants_probe(self, now: float) -> bool:
        """Tell whether a request now would show what is not known yet."""
        if self.is_answering or self._key_s is None or now < self._retry_s:
            return False
        if self._asked_s is not None:
            return False
        return now - self._key_s >= (LONG_S if self._stage else SHORT_S)

    def asked(self, now: float) -> None:
        """Note that a keyframe is asked for."""
        self.unanswered += 1
        self._asked_s = now

    def came(self, now: float, interval_s: float) -> None:
        """Note a keyframe of a sender with this interval between its frames."""
        asked_s, self._asked_s = self._asked_s, None
        is_answer = asked_s is not None and now - asked_s <= ANSWER_S + min(interval_s, 0.5)
        key_s, self._key_s = self._key_s, now
        self.unanswered = 0
        if self.is_answering or key_s is None or now < self._retry_s:
            return
        wait_s = LONG_S if self._stage else SHORT_S
        if not is_answer or asked_s is None:
            self._doubt(now)
        elif not wait_s <= asked_s - key_s <= wait_s + LATE_S:
            return  # Asked at a time that tells nothing.
        elif self._stage:
            self.is_answering = True
        else:
            self._stage = 1

    def ignored(self, now: float) -> None:
        """Note that frames go on coming without the keyframe asked for."""
        if self._asked_s is None:
            return
        if self.is_answering and self.unanswered >= MAX_IGNORED:
            self._doubt(now)
        elif not self.is_answering and now - self._asked_s > ANSWER_S + 1.0:
            self._doubt(now)

    def is_off(self, now: float, last_arrival_s: float, last_report_s: float | None) -> bool:
        """Tell whether a sender that sent `last_arrival_s` is switched off, not standing still."""
        if not self.is_answering or self.unanswered < MAX_UNANSWERED:
            return False
        is_reached = last_report_s is not None and now - last_report_s < REPORT_S
        return is_reached and now - last_arrival_s > MAX_UNANSWERED * REPEAT_S

    def _doubt(self, now: float) -> None:
        self.is_answering = False
        self._stage = 0
        self._asked_s = None
        self._retry_s = now + RETRY_S
