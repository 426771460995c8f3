"""Which answer of a script comes next."""

from __future__ import annotations

from engine.scripted.script import Script, ScriptedAnswer, To


class AnswerBook:
    """Owns what of a script's answers one session has used."""

    def __init__(self, script: Script) -> None:
        self._answers = script.answer
        self._left = list(script.answer)

    def take(self, to: To, text: str = "") -> ScriptedAnswer | None:
        """The next answer to a turn of this kind that says `text`, once."""
        answer = self._find(to, text)
        if answer is None and len(self._left) < len(self._answers):
            self._left = list(self._answers)
            answer = self._find(to, text)
        if answer is not None:
            self._left.remove(answer)
        return answer

    def _find(self, to: To, text: str) -> ScriptedAnswer | None:
        said = text.casefold()
        for answer in self._left:
            fits = answer.to == to or (answer.to == "any" and to != "aside")
            if fits and answer.when.casefold() in said:
                return answer
        return None
